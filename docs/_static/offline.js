// A page that is opened from a folder may not read other files: the search then lists pages without their text.
if (window.location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
