"""The studio in the browser. The only place that imports gradio; it imports no torch."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # must be set before gradio is imported
