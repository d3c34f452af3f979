"""The demo: a private server, the work orders of a small manufacturer, and a report on what came of them."""
