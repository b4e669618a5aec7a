// One entry in the browser's history for each thing that a visitor does. Streamlit adds one for every
// parameter that is written, also for what a page writes by itself, and Back would stop at each of them.
//
// A link leads to the top of its page; Back, Forward and a reload to where the page was left. With Ctrl or Shift
// a link opens a tab or a window of its own, as elsewhere. A text field sends its text when it is left, and of two
// runs at once Streamlit may drop the link's: a link that is clicked from a field waits for the text's.
//
// A link in a table or in HTML would open the page in a tab, which has a session of its own: where its address
// is relative it leads on in this one.
(() => {
  if (window.atlasHistory) return;
  window.atlasHistory = true;
  const page = () => document.querySelector('[data-testid="stMain"]') ?? document.body;
  const FIELDS = "textarea, input, [contenteditable=true]";
  const LONGEST_REDRAW = 10_000; // milliseconds in which a page that Back leads to grows to its height
  // A visitor may be faster than this script: then nothing is known of the deed.
  let deed = navigator.userActivation?.hasBeenActive ? { top: 0 } : null;
  let wanted = null;
  let inField = false; // when the pointer went down

  const followLater = (link) => {
    const started = Date.now();
    const follow = () => {
      const waited = Date.now() - started;
      const app = document.querySelector('[data-testid="stApp"]');
      const idle = waited > 200 && app?.getAttribute("data-test-script-state") !== "running";
      if (!idle && waited < 3000) return setTimeout(follow, 50);
      // The run may have drawn the link again.
      const same = [...document.querySelectorAll("a[href]")].find((each) => each.href === link.href);
      (link.isConnected ? link : same)?.click();
    };
    follow();
  };

  const IN_APP = /^[a-z]+\?/;
  const lead = (url) => {
    const to = new URL(url, location);
    to.hash = "";
    history.pushState({}, "", to);
    dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  };
  let apart = false; // with Ctrl or Shift
  const open = window.open;
  window.open = (url, ...rest) => {
    if (apart || !IN_APP.test(url)) return open.call(window, url, ...rest);
    lead(url);
    return null;
  };

  const note = (event) => {
    wanted = null;
    if (event.type === "wheel" || event.type === "touchmove") return;
    const link = event.target.closest?.("a[href]");
    deed = { link, top: page().scrollTop };
    // Streamlit's link to the first page is relative to the page in view.
    const href = link?.getAttribute("href") ?? "";
    if (href.startsWith("?")) link.setAttribute("href", `./${href}`);
    if ("ctrlKey" in event) apart = event.ctrlKey || event.metaKey || event.shiftKey;
    if (event.type === "pointerdown") inField = document.activeElement?.matches(FIELDS) ?? false;
    if (event.type !== "click" || !link) return;
    if (apart) {
      event.stopImmediatePropagation();
    } else if (event.isTrusted && inField) {
      event.preventDefault();
      event.stopImmediatePropagation();
      inField = false;
      followLater(link);
    } else if (IN_APP.test(href) && (link.target === "_blank" || link.closest('[data-testid="stHtml"]'))) {
      event.preventDefault();
      event.stopImmediatePropagation();
      lead(href);
    }
  };
  addEventListener("click", note, { capture: true });
  for (const type of ["pointerdown", "keydown", "wheel", "touchmove"]) {
    addEventListener(type, note, { capture: true, passive: true });
  }

  const push = history.pushState;
  history.pushState = (state, title, url) => {
    if (deed?.link || new URL(url, location).pathname !== location.pathname) page().scrollTop = 0;
    if (deed === null) return history.replaceState(history.state, title, url);
    history.replaceState({ ...history.state, top: deed.top }, "");
    deed = null;
    return push.call(history, state, title, url);
  };

  const stay = () => {
    if (wanted === null || Date.now() > wanted.until) return;
    page().scrollTop = wanted.top;
    requestAnimationFrame(stay);
  };
  const returnTo = (state) => {
    wanted = { top: state?.top ?? 0, until: Date.now() + LONGEST_REDRAW };
    stay();
  };
  addEventListener("popstate", (event) => {
    deed = null;
    returnTo(event.state);
  });
  // This script is there before the page that it scrolls.
  const onceDrawn = (state) => {
    if (document.querySelector('[data-testid="stHeading"]')) returnTo(state);
    else setTimeout(onceDrawn, 50, state);
  };
  if (performance.getEntriesByType("navigation")[0]?.type === "reload") onceDrawn(history.state);

  let pause;
  addEventListener("scroll", () => {
    clearTimeout(pause);
    pause = setTimeout(() => {
      const held = wanted !== null && Date.now() <= wanted.until;
      if (!held) history.replaceState({ ...history.state, top: page().scrollTop }, "");
    }, 150);
  }, { capture: true, passive: true });
})();
