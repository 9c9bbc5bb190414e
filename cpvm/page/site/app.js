// The console page: connects to the stream that the page's address names and says what goes on.

import RFB from "./novnc.js";
import { NAMED, type } from "./keys.js";

const byId = (id) => document.getElementById(id);
const CLOSED = {
  1001: "The console proxy is shutting down.",
  4001: "Another viewer has taken over this console.",
  4002: "The virtual machine's screen was closed. It may have been stopped, restarted or moved.",
  4003: "An operator has ended this session.",
};

// Values of the page's address. `+` stands for itself: tokens contain it.
function parameters(search) {
  const found = {};
  for (const part of search.replace(/^\?/, "").split("&")) {
    const cut = part.indexOf("=");
    if (cut > 0) {
      const raw = part.slice(cut + 1);
      try {
        found[part.slice(0, cut)] = decodeURIComponent(raw);
      } catch {
        found[part.slice(0, cut)] = raw;
      }
    }
  }
  return found;
}

function streamUrl(given) {
  const secure = location.protocol === "https:";
  const port = /^[0-9]{1,5}$/.test(given.port ?? "") ? given.port : location.port || (secure ? "443" : "80");
  let query = `token=${encodeURIComponent(given.token)}`;
  if (given.extra) query += `&extra=${encodeURIComponent(given.extra)}`;
  return `${secure ? "wss" : "ws"}://${location.hostname}:${port}/websockify?${query}`;
}

// The state (connecting, connected, disconnected, refused, failed) is on the body for those who drive the page.
function say(state, text, tone) {
  document.body.dataset.state = state;
  byId("status").textContent = text;
  byId("status").dataset.tone = tone;
}

function end(state, title, reason) {
  say(state, `${title}: ${reason}`, "bad");
  byId("ended-title").textContent = title;
  byId("ended-reason").textContent = reason;
  byId("ended").hidden = false;
  for (const button of document.querySelectorAll("[role=toolbar] button:not(#full)")) button.disabled = true;
  byId("paste-panel").hidden = true;
}

function connect(given) {
  const socket = new WebSocket(streamUrl(given), ["binary"]);
  socket.binaryType = "arraybuffer";
  // Before the client's own listener, which ends the session: the code says why.
  let closed = null;
  socket.addEventListener("close", (event) => { closed = event; });
  const rfb = new RFB(byId("screen"), socket, { shared: true });
  rfb.scaleViewport = true;
  rfb.showDotCursor = given.show_dot === "true";
  rfb.focusOnClick = true;

  let name = "";
  let connected = false;
  let refused = "";
  let gone = false;

  const announce = () => {
    const secure = location.protocol === "https:";
    const behind = name.includes("(TLS backend)");
    const how = secure ? "encrypted" : behind ? "encrypted behind the proxy only" : "unencrypted";
    say("connected", `Connected (${how}) to ${name}`, secure || behind ? "good" : "");
  };
  rfb.addEventListener("connect", () => {
    connected = true;
    for (const button of document.querySelectorAll("[role=toolbar] button")) button.disabled = false;
    announce();
    rfb.focus();
  });
  rfb.addEventListener("desktopname", (event) => {
    name = event.detail.name.trim();
    document.title = `${name.replace(/ ?\(TLS backend\)$/, "")} - Console`;
    if (connected) announce();
  });
  rfb.addEventListener("securityfailure", (event) => { refused = event.detail.reason ?? ""; });
  rfb.addEventListener("clipboard", (event) => { byId("paste-text").value = event.detail.text; });
  rfb.addEventListener("disconnect", () => {
    gone = true;
    const code = CLOSED[closed?.code];
    if (connected) {
      end("disconnected", "Disconnected", code || closed?.reason || "The connection was lost. Open the console again.");
    } else if (refused) {
      end("refused", "New connection has been rejected", refused);
    } else {
      end("failed", "Failed to connect to server / access token has expired", code ?? "Open the console again.");
    }
  });
  controls(rfb, () => gone);
}

function controls(rfb, gone) {
  byId("cad").addEventListener("click", () => { rfb.sendCtrlAltDel(); rfb.focus(); });
  for (const button of document.querySelectorAll("[data-press]")) {
    button.addEventListener("click", () => { rfb.sendKey(...NAMED[button.dataset.press]); rfb.focus(); });
  }
  for (const button of document.querySelectorAll("[data-hold]")) {
    button.addEventListener("click", () => {
      const down = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(down));
      rfb.sendKey(...NAMED[button.dataset.hold], down);
      rfb.focus();
    });
  }
  byId("scale").addEventListener("click", () => {
    rfb.scaleViewport = !rfb.scaleViewport;
    byId("scale").setAttribute("aria-pressed", String(rfb.scaleViewport));
    rfb.focus();
  });
  const panel = (open) => {
    byId("paste-panel").hidden = !open;
    byId("paste").setAttribute("aria-expanded", String(open));
    if (open) byId("paste-text").focus(); else rfb.focus();
  };
  byId("paste").addEventListener("click", () => panel(byId("paste-panel").hidden));
  byId("paste-clear").addEventListener("click", () => { byId("paste-text").value = ""; byId("paste-text").focus(); });
  byId("paste-send").addEventListener("click", () => {
    const text = byId("paste-text").value;
    panel(false);
    type((symbol, code, down) => rfb.sendKey(symbol, code, down), text, gone);
  });
}

function fullScreen() {
  const button = byId("full");
  button.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().catch(() => { button.disabled = true; });
  });
  document.addEventListener("fullscreenchange", () => {
    button.setAttribute("aria-pressed", String(document.fullscreenElement !== null));
  });
}

fullScreen();
const given = parameters(location.search);
if (given.token) {
  // The token is good for one connection: it has no business in the address bar, history or bookmarks.
  history.replaceState(null, "", location.pathname);
  say("connecting", "Connecting", "");
  connect(given);
} else {
  end("failed", "No console session", "Open the console again: each address is good for one connection.");
}
