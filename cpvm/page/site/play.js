// Plays a recording of a console (FBS 001.001) that lies on the operator's disk; nothing of it leaves the browser.

import RFB from "./novnc.js";

const byId = (id) => document.getElementById(id);
const MAGIC = "FBS 001.00";
// Longest time that a screen stands still, where that is to be skipped; milliseconds.
const STILL = 1000;

// Blocks of what the server said: time since the start in milliseconds, bytes. One that was cut off is left out.
function blocks(buffer) {
  const view = new DataView(buffer);
  const start = new Uint8Array(buffer, 0, Math.min(12, buffer.byteLength));
  if (!String.fromCharCode(...start).startsWith(MAGIC)) throw new Error("This is no recording of a console.");
  const found = [];
  for (let at = 12; at + 8 <= buffer.byteLength;) {
    const length = view.getUint32(at);
    const end = at + 4 + length + (-length & 3);
    if (length === 0 || end + 4 > buffer.byteLength) break;
    found.push({ time: view.getUint32(end), bytes: buffer.slice(at + 4, at + 4 + length) });
    at = end + 4;
  }
  if (found.length === 0) throw new Error("This recording is empty.");
  return found;
}

// What the client takes for a connection; what it sends goes nowhere.
class Player {
  binaryType = "arraybuffer";
  protocol = "";
  readyState = "open";
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;

  send() {}

  close() {
    this.readyState = "closed";
  }
}

function say(state, text) {
  document.body.dataset.state = state;
  byId("status").textContent = text;
}

const clock = (time) => {
  const seconds = Math.floor(time / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
};
const turn = (time) => new Promise((done) => { setTimeout(done, time); });
const paused = () => byId("pause").getAttribute("aria-pressed") === "true";

// What is played; another choice ends it.
let current = null;

// Waits out the time between two blocks, as the user wishes from moment to moment.
async function wait(player, gap) {
  let left = gap;
  while (player === current && (left > 0 || paused())) {
    const speed = Number(byId("speed").value);
    if (paused()) {
      await turn(50);
      continue;
    }
    if (speed === 0) return;
    if (byId("skip").checked) left = Math.min(left, STILL);
    const step = Math.min(left, 50 * speed);
    await turn(step / speed);
    left -= step;
  }
}

async function play(list) {
  const player = new Player();
  current?.close();
  current = player;
  byId("screen").replaceChildren();
  const rfb = new RFB(byId("screen"), player, { shared: true });
  rfb.viewOnly = true;
  rfb.scaleViewport = true;
  rfb.addEventListener("desktopname", (event) => { document.title = `${event.detail.name.trim()} - Recording`; });
  const end = list[list.length - 1].time || 1;
  byId("pause").disabled = false;
  say("playing", "Playing");
  let now = 0;
  let last = performance.now();
  for (const { time, bytes } of list) {
    await wait(player, time - now);
    // Pictures are drawn between two turns.
    if (performance.now() - last > 20) {
      await turn(0);
      last = performance.now();
    }
    if (player !== current) return;
    now = time;
    player.onmessage({ data: bytes });
    byId("done").value = time / end;
    byId("time").textContent = `${clock(time)} / ${clock(end)}`;
  }
  byId("pause").disabled = true;
  say("ended", "The recording has ended");
}

byId("pause").addEventListener("click", () => byId("pause").setAttribute("aria-pressed", String(!paused())));
byId("file").addEventListener("change", async () => {
  try {
    const [file] = byId("file").files;
    if (file) await play(blocks(await file.arrayBuffer()));
  } catch (error) {
    current = null;
    say("failed", error.message);
  }
});
