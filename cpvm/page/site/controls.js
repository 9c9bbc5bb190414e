// The buttons of the page.

import { COMBINATIONS, NAMED, keysym, type } from "./keys.js";
import { LAYOUTS } from "./layouts.js";
import { word } from "./words.js";

const byId = (id) => document.getElementById(id);
const STORED = "console-keyboard";

// What the page remembers of this browser; it may be forbidden to.
function stored(value) {
  try {
    if (value === undefined) return localStorage.getItem(STORED);
    localStorage.setItem(STORED, value);
  } catch {
    // Then it is asked for each time.
  }
  return null;
}

// The layout that was chosen last; else that of the address, else that of the browser's language.
function firstLayout(language) {
  const browser = navigator.language.toLowerCase();
  const by = { de: "de", fr: "fr", tr: "tr", ja: "jp" }[browser.split("-")[0]];
  const guesses = [stored(), language, browser === "en-gb" ? "uk" : by, "us"];
  return guesses.find((name) => name && Object.hasOwn(LAYOUTS, name));
}

function press(rfb, keys) {
  for (const key of keys) rfb.sendKey(...NAMED[key], true);
  for (const key of [...keys].reverse()) rfb.sendKey(...NAMED[key], false);
}

// Keys that stay down until their button is pressed again.
function held(rfb) {
  const buttons = [...document.querySelectorAll("[data-hold]")];
  const set = (button, down) => {
    if ((button.getAttribute("aria-pressed") === "true") === down) return;
    button.setAttribute("aria-pressed", String(down));
    rfb.sendKey(...NAMED[button.dataset.hold], down);
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      set(button, button.getAttribute("aria-pressed") !== "true");
      rfb.focus();
    });
  }
  return () => buttons.forEach((button) => set(button, false));
}

function panels(rfb) {
  const buttons = [...document.querySelectorAll("[data-panel]")];
  const show = (shown) => {
    for (const button of buttons) {
      button.setAttribute("aria-expanded", String(button === shown));
      byId(button.getAttribute("aria-controls")).hidden = button !== shown;
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const opening = button.getAttribute("aria-expanded") !== "true";
      show(opening ? button : null);
      const first = byId(button.getAttribute("aria-controls")).querySelector("textarea, button");
      if (opening) first.focus(); else rfb.focus();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.closest?.(".panel")) {
      show(null);
      rfb.focus();
    }
  });
  return () => { show(null); rfb.focus(); };
}

function moreKeys(rfb) {
  const panel = byId("more-panel");
  for (const keys of COMBINATIONS) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = keys.map((key) => NAMED[key][2] ?? key).join("+");
    button.addEventListener("click", () => press(rfb, keys));
    panel.append(button);
  }
}

function pasting(rfb, socket, { gone, language, announce }, release, close) {
  const [text, layout, stop] = [byId("paste-text"), byId("layout"), byId("paste-stop")];
  layout.value = firstLayout(language);
  layout.addEventListener("change", () => stored(layout.value));
  byId("paste-clear").addEventListener("click", () => { text.value = ""; text.focus(); });
  let stopped = false;
  stop.addEventListener("click", () => { stopped = true; });
  byId("paste-send").addEventListener("click", async () => {
    if (!stop.disabled) return;
    release();
    close();
    [stopped, stop.disabled] = [false, false];
    const busy = () => socket.bufferedAmount > 1024;
    const said = byId("status");
    const without = await type((...key) => rfb.sendKey(...key), text.value, LAYOUTS[layout.value], {
      stopped: () => stopped || gone(),
      busy,
      progress: (done, all) => { said.textContent = `${word("Typing")} ${done}/${all}`; },
    });
    stop.disabled = true;
    if (gone()) return;
    announce();
    if (without) said.textContent = `${word("Not on this keyboard")}: ${without}`;
  });
  byId("clip-send").addEventListener("click", () => { rfb.clipboardPasteFrom(text.value); close(); });
  const copy = byId("clip-copy");
  // Browsers give it to pages over https only.
  copy.disabled = !navigator.clipboard;
  copy.addEventListener("click", () => navigator.clipboard.writeText(text.value).catch(() => { text.select(); }));
}

// The keyboard of a phone: it appears for a text field, whose changes are typed.
function softKeyboard(rfb) {
  const field = byId("soft");
  const filler = "_".repeat(32);
  const reset = () => {
    field.value = filler;
    field.setSelectionRange(filler.length, filler.length);
  };
  byId("touch").addEventListener("click", () => {
    reset();
    field.focus();
  });
  field.addEventListener("input", (event) => {
    if (event.isComposing) return;
    const now = field.value;
    let same = 0;
    while (same < filler.length && now[same] === filler[same]) same += 1;
    for (let n = same; n < filler.length; n += 1) press(rfb, ["Backspace"]);
    for (const character of now.slice(same)) rfb.sendKey(keysym(character), null);
    reset();
  });
}

// Everything that acts on the machine or on the picture.
export function controls(rfb, socket, session) {
  const release = held(rfb);
  const close = panels(rfb);
  moreKeys(rfb);
  pasting(rfb, socket, session, release, close);
  softKeyboard(rfb);
  byId("cad").addEventListener("click", () => { release(); rfb.sendCtrlAltDel(); rfb.focus(); });
  for (const button of document.querySelectorAll("[data-press]")) {
    button.addEventListener("click", () => { press(rfb, [button.dataset.press]); rfb.focus(); });
  }
  byId("scale").addEventListener("click", () => {
    rfb.scaleViewport = !rfb.scaleViewport;
    // In its own size the picture may be larger than the window: it is moved by dragging.
    rfb.clipViewport = !rfb.scaleViewport;
    rfb.dragViewport = rfb.clipViewport && matchMedia("(pointer: coarse)").matches;
    byId("scale").setAttribute("aria-pressed", String(rfb.scaleViewport));
    rfb.focus();
  });
  const looking = (only) => {
    if (only) { release(); close(); }
    rfb.viewOnly = only;
    byId("look").setAttribute("aria-pressed", String(only));
    for (const button of document.querySelectorAll(".acts")) button.disabled = only;
  };
  byId("look").addEventListener("click", () => { looking(!rfb.viewOnly); rfb.focus(); });
  looking(rfb.viewOnly);
  const menu = byId("menu");
  menu.addEventListener("click", () => {
    const open = menu.getAttribute("aria-expanded") !== "true";
    menu.setAttribute("aria-expanded", String(open));
    byId("tools").classList.toggle("closed", !open);
  });
  // The screen takes every key; this one gets a user of the keyboard out of it.
  window.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey && event.altKey && event.shiftKey) {
      event.preventDefault();
      event.stopImmediatePropagation();
      document.querySelector("[role=toolbar] button:enabled").focus();
    }
  }, true);
}

export function fullScreen() {
  const button = byId("full");
  button.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().catch(() => { button.disabled = true; });
  });
  document.addEventListener("fullscreenchange", () => {
    button.setAttribute("aria-pressed", String(document.fullscreenElement !== null));
  });
}
