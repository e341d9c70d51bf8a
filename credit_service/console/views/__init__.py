"""The console's pages, a module for each area. A view is a function from `Page` to a response."""
