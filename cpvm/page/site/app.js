// The console page: connects to the stream that the page's address names and says what goes on.

import RFB from "./novnc.js";
import { controls, fullScreen } from "./controls.js";
import { translate, word } from "./words.js";

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

// Where the stream may be: at the port that the address names, and where the page itself came from. Behind a proxy
// that puts the page below a path of its own only the latter is ours.
function streams(given) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const prefix = location.pathname.replace(/\/resource\/noVNC\/[^/]*$/, "");
  let query = `token=${encodeURIComponent(given.token)}`;
  if (given.extra) query += `&extra=${encodeURIComponent(given.extra)}`;
  const here = `${scheme}://${location.host}${prefix}/websockify?${query}`;
  if (prefix || !/^[0-9]{1,5}$/.test(given.port ?? "")) return [here];
  const named = `${scheme}://${location.hostname}:${given.port}/websockify?${query}`;
  return named === here ? [here] : [named, here];
}

// The state (connecting, connected, disconnected, refused, failed) is on the body for those who drive the page.
function say(state, text, tone) {
  document.body.dataset.state = state;
  byId("status").textContent = text;
  byId("status").dataset.tone = tone;
}

function end(state, title, reason) {
  say(state, `${word(title)}: ${word(reason)}`, "bad");
  byId("ended-title").textContent = word(title);
  byId("ended-reason").textContent = word(reason);
  byId("ended").hidden = false;
  for (const button of document.querySelectorAll("[role=toolbar] button:not(#full)")) button.disabled = true;
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = true;
}

const FAILED = "Failed to connect to server / access token has expired";

// Connects to the first of the places that opens: one that does not has not used up the token.
function connect(given, [place, ...others]) {
  const socket = new WebSocket(place, ["binary"]);
  socket.binaryType = "arraybuffer";
  let opened = false;
  socket.addEventListener("open", () => { opened = true; });
  // Before the client's own listener, which ends the session: the code says why.
  let closed = null;
  socket.addEventListener("close", (event) => { closed = event; });
  const rfb = new RFB(byId("screen"), socket, { shared: true });
  rfb.scaleViewport = true;
  rfb.showDotCursor = given.show_dot === "true";
  rfb.viewOnly = given.view_only === "true";
  rfb.focusOnClick = true;

  let name = "";
  let connected = false;
  let refused = "";
  let gone = false;

  const announce = () => {
    const secure = location.protocol === "https:";
    const behind = name.includes("(TLS backend)");
    const how = secure ? "encrypted" : behind ? "encrypted behind the proxy only" : "unencrypted";
    say("connected", `${word("Connected")} (${word(how)}): ${name}`, secure || behind ? "good" : "");
  };
  rfb.addEventListener("connect", () => {
    connected = true;
    for (const button of document.querySelectorAll("[role=toolbar] button")) button.disabled = false;
    announce();
    controls(rfb, socket, { gone: () => gone, language: given.language, announce });
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
    if (!opened && others.length) {
      connect(given, others);
    } else if (connected) {
      end("disconnected", "Disconnected", code || closed?.reason || "The connection was lost. Open the console again.");
    } else if (refused) {
      end("refused", "New connection has been rejected", refused);
    } else {
      end("failed", FAILED, code ?? "Open the console again.");
    }
  });
}

translate(document);
fullScreen();
const given = parameters(location.search);
if (given.token) {
  // The token is good for one connection: it has no business in the address bar, history or bookmarks.
  history.replaceState(null, "", location.pathname);
  say("connecting", word("Connecting"), "");
  connect(given, streams(given));
} else {
  end("failed", "No console session", "Open the console again: each address is good for one connection.");
}
