"""The QA checklist: checks of the service that a user runs from the console."""
