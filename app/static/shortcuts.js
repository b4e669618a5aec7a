// Ctrl+K leads to the search box, `?` shows the shortcuts; neither while somebody types in a field.
(() => {
  const FIELDS = "textarea, select, [contenteditable=true], input:not([type=checkbox], [type=radio], [type=range])";
  const LONGEST_WAIT = 10_000; // milliseconds until the page of the search is there
  const box = () => document.querySelector(".st-key-box-q input");

  const search = (until) => {
    if (box()) {
      box().focus();
      box().select();
    } else if (Date.now() < until) {
      setTimeout(search, 50, until);
    }
  };

  addEventListener("keydown", (event) => {
    if (event.altKey || event.target.closest?.(FIELDS)) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      if (!box()) document.querySelector('.stSidebar a[href*="search"]')?.click();
      search(Date.now() + LONGEST_WAIT);
    } else if (event.key === "?" && !event.ctrlKey && !event.metaKey) {
      document.querySelector(".st-key-shortcuts button")?.click();
    }
  });
})();
