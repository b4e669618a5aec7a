"""The charts that the app and the report share: functions from rows to an `alt.Chart`, with one palette."""
