"""The app in the browser: `sonolume web`. No model code: a tab calls the same functions as the command line."""
