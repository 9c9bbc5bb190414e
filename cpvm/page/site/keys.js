// Keys that the page sends by itself: those of its buttons, and text typed as key strokes.

// Keysym, key of the keyboard, and the word on the button where it is another one.
export const NAMED = {
  Alt: [0xffe9, "AltLeft"],
  AltGr: [0xfe03, "AltRight"],
  ArrowDown: [0xff54, "ArrowDown", "↓"],
  ArrowLeft: [0xff51, "ArrowLeft", "←"],
  ArrowRight: [0xff53, "ArrowRight", "→"],
  ArrowUp: [0xff52, "ArrowUp", "↑"],
  Backspace: [0xff08, "Backspace"],
  Control: [0xffe3, "ControlLeft", "Ctrl"],
  Delete: [0xffff, "Delete", "Del"],
  End: [0xff57, "End"],
  Enter: [0xff0d, "Enter"],
  Escape: [0xff1b, "Escape", "Esc"],
  Home: [0xff50, "Home"],
  Insert: [0xff63, "Insert", "Ins"],
  Meta: [0xffeb, "MetaLeft"],
  PageDown: [0xff56, "PageDown", "PgDn"],
  PageUp: [0xff55, "PageUp", "PgUp"],
  Pause: [0xff13, "Pause"],
  PrintScreen: [0xff61, "PrintScreen", "PrtSc"],
  Shift: [0xffe1, "ShiftLeft"],
  Space: [0x20, "Space"],
  Tab: [0xff09, "Tab"],
};
const FUNCTIONS = Array.from({ length: 12 }, (_, index) => `F${index + 1}`);
FUNCTIONS.forEach((name, index) => { NAMED[name] = [0xffbe + index, name]; });

// The buttons of "More keys".
export const COMBINATIONS = [
  ...FUNCTIONS.map((name) => [name]),
  ...["Home", "End", "PageUp", "PageDown", "Insert", "Delete", "PrintScreen", "Pause"].map((name) => [name]),
  ...["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"].map((name) => [name]),
  ["Control", "Escape"], ["Control", "c"], ["Alt", "Tab"], ["Alt", "F4"], ["Control", "Shift", "Escape"],
  ["Control", "Alt", "Backspace"], ["Alt", "PrintScreen"],
  ...FUNCTIONS.slice(0, 7).map((name) => ["Control", "Alt", name]),
];
NAMED.c = [0x63, "KeyC", "C"];

// Between two characters, in milliseconds: some machines lose keys that come faster.
const PAUSE = 25;
// Accents that stand alone, and the dead key that makes them before a space.
const ALONE = { "^": "\u0302", "`": "\u0300", "~": "\u0303" };

export function keysym(character) {
  if (character === "\n") return NAMED.Enter[0];
  if (character === "\t") return NAMED.Tab[0];
  const point = character.codePointAt(0);
  return point < 0x100 ? point : 0x01000000 + point;
}

// One key with what has to be held for it.
function stroke(symbol, { code, shift, altGr }) {
  const held = [shift && NAMED.Shift, altGr && NAMED.AltGr].filter(Boolean);
  return [
    ...held.map(([modifier, key]) => [modifier, key, true]),
    [symbol, code, true], [symbol, code, false],
    ...held.reverse().map(([modifier, key]) => [modifier, key, false]),
  ];
}

// The key events, as [keysym, key, down], by which a machine with this keyboard writes the character. `null` where
// the keyboard has no way to write it.
export function strokes(character, layout) {
  if (character === "\n" || character === "\t") {
    return stroke(keysym(character), { code: character === "\n" ? "Enter" : "Tab" });
  }
  const key = layout[character];
  if (key) return stroke(keysym(character), key);
  const [base, mark, ...more] = character.normalize("NFD");
  if (mark && !more.length && layout[mark] && layout[base]) {
    return [...stroke(keysym(mark), layout[mark]), ...stroke(keysym(base), layout[base])];
  }
  const dead = layout[ALONE[character]];
  return dead ? [...stroke(keysym(ALONE[character]), dead), ...stroke(0x20, layout[" "])] : null;
}

// Types a text. A character that the keyboard has not goes as its own symbol, for servers that know what to do with
// it; these are returned. Waits while the connection is busy, and ends early when it is told to.
export async function type(send, text, layout, { stopped, busy, progress }) {
  const characters = Array.from(text.normalize("NFC").replace(/\r\n?/g, "\n"));
  const without = new Set();
  const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE));
  for (const [index, character] of characters.entries()) {
    while (busy() && !stopped()) await pause();
    if (stopped()) break;
    const events = strokes(character, layout);
    if (!events) without.add(character);
    for (const event of events ?? [[keysym(character), null, true], [keysym(character), null, false]]) send(...event);
    if (index % 8 === 0) progress(index + 1, characters.length);
    await pause();
  }
  return [...without].join(" ");
}
