/* What the scripts say, in the language of the page. The messages are written in English where they are
 * said, and stand with their translations in `studio/locale`.
 */
export const language = document.documentElement.lang || "en";
const { default: translations } = await import("../messages/" + language + ".js");
const plural = new Intl.PluralRules(language);
const { pluralCategories } = plural.resolvedOptions();

/* The message with values for its named places: `{number}`. */
export function _(message, values) {
  return filled(translations[message]?.[0] || message, values);
}

/* The same of a counted thing. `number` is a value too. */
export function ngettext(one, many, number, values) {
  const forms = translations[one];
  const form = Math.min(pluralCategories.indexOf(plural.select(number)), (forms?.length || 1) - 1);
  const english = number === 1 ? one : many;
  return filled(forms?.[form] || english, { number, ...values });
}

function filled(text, values) {
  return values ? text.replace(/\{(\w+)\}/g, (_place, name) => values[name]) : text;
}

/* Sentences one after the other, with a space between where the language has one. */
export function together(...sentences) {
  return sentences.filter(Boolean).reduce((text, next) => text + (/[。！？]$/.test(text) ? "" : " ") + next);
}
