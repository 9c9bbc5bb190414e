// Keys that the page sends by itself: those of its buttons, and text typed as key strokes.

export const NAMED = {
  Alt: [0xffe9, "AltLeft"],
  Control: [0xffe3, "ControlLeft"],
  Delete: [0xffff, "Delete"],
  Escape: [0xff1b, "Escape"],
  Meta: [0xffeb, "MetaLeft"],
  Shift: [0xffe1, "ShiftLeft"],
  Tab: [0xff09, "Tab"],
};

const SHIFTED = /^[A-Z~!@#$%^&*()_+{}|:"<>?]$/;
const PAUSE = 25;

function keysym(character) {
  if (character === "\n") return 0xff0d;
  if (character === "\t") return 0xff09;
  const point = character.codePointAt(0);
  return point < 0x100 ? point : 0x01000000 + point;
}

// The key strokes for a text, as [keysym, down] pairs, one list for each character. Shift is held for
// the characters that need it on a US keyboard; all others go as their own symbol.
export function strokes(text) {
  return Array.from(text.replace(/\r\n?/g, "\n"), (character) => {
    const symbol = keysym(character);
    const press = [[symbol, true], [symbol, false]];
    const [shift] = NAMED.Shift;
    return SHIFTED.test(character) ? [[shift, true], ...press, [shift, false]] : press;
  });
}

// Types a text; ends early when `stopped` says so.
export async function type(send, text, stopped) {
  for (const keys of strokes(text)) {
    if (stopped()) return;
    for (const [symbol, down] of keys) send(symbol, null, down);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}
