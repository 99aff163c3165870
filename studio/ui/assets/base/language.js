/* The language of the page, which its server said: gradio's own words are in it too, and it goes with
 * everything that the page asks for.
 */
(() => {
  const { lang } = document.documentElement;
  Object.defineProperty(navigator, "language", { get: () => lang });
  const plain = window.fetch;
  window.fetch = (asked, options = {}) => {
    const url = new URL(asked.url || asked, document.baseURI);
    if (url.origin !== location.origin) return plain(asked, options);
    const headers = new Headers(options.headers || asked.headers);
    headers.set("Studio-Language", lang);
    return plain(asked, { ...options, headers });
  };
})();
