// Which key writes which character on the keyboards of the machines.

// The keys, row by row.
const CODES = [
  "Backquote", ..."1234567890".split("").map((n) => `Digit${n}`), "Minus", "Equal",
  ..."QWERTYUIOP".split("").map((c) => `Key${c}`), "BracketLeft", "BracketRight",
  ..."ASDFGHJKL".split("").map((c) => `Key${c}`), "Semicolon", "Quote", "Backslash",
  "IntlBackslash", ..."ZXCVBNM".split("").map((c) => `Key${c}`), "Comma", "Period", "Slash",
  "IntlYen", "IntlRo",
];

// What they write alone, with Shift, with AltGr, with both; a blank where nothing, or nothing new. Accents that wait for
// their letter (dead keys) are combining characters.
const ROWS = {
  us: [
    "`1234567890-=qwertyuiop[]asdfghjkl;'\\ zxcvbnm,./",
    "~!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:\"| ZXCVBNM<>?",
  ],
  uk: [
    "`1234567890-=qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./",
    "¬!\"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>?",
    " ¹²³€½¾     \u0327 ſ ¶ŧ←↓→øþ\u0308\u0303æßðđŋħ ĸł\u0301\u0302\u0300 «»¢„“”µ•·",
    " ¡⅛ ¼⅜⅝⅞™±°¿\u0328Ω§ ®Ŧ¥↑ıØÞ\u030a\u0304ÆẞÐªŊĦ  Ł\u030b\u030c\u0306¦  ©‚‘’º×÷\u0307",
  ],
  de: [
    "\u03021234567890ß\u0301qwertzuiopü+asdfghjklöä#<yxcvbnm,.-",
    "°!\"§$%&/()=?\u0300QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_",
    "′¹²³¼½¬{[]}\\\u0327@ſ€¶ŧ←↓→øþ\u0308~æ ðđŋħ ĸł\u030b ’|»«¢„“”µ·…–",
    "″¡⅛£¤⅜⅝⅞™± ¿\u0328Ω  ®Ŧ¥↑ıØÞ\u030a¯ÆẞÐªŊĦ\u0307 Ł \u030c\u0306 ›‹©‚‘ º×÷—",
  ],
  fr: [
    "²&é\"'(-è_çà)=azertyuiop\u0302$qsdfghjklmù*<wxcvbn,;:!",
    " 1234567890°+AZERTYUIOP\u0308£QSDFGHJKLM%µ>WXCVBN?./§",
    "¬¹~#{[|`\\^@]}æ«€¶ŧ←↓→øþ ¤ ßðđŋħ ĸł  \u0300  »¢„“”\u0301•·",
    " ¡⅛  ⅜⅝⅞™± ¿\u0328Æ  ®Ŧ¥↑ıØÞ\u030a\u0304ΩẞÐªŊĦ  Łº\u030c\u0306¦  ©‚‘’\u030b×÷\u0307",
  ],
  tr: [
    "\"1234567890*-qwertyuıopğüasdfghjklşi,<zxcvbnmöç.",
    "é!'^+%&/()=?_QWERTYUIOPĞÜASDFGHJKLŞİ;>ZXCVBNMÖÇ:",
    "  £#$½¾{[]}\\|@ €¶₺←ûîô \u0308~âß ª     ´ ` «»¢„“”µ×·\u0307",
    "°¡²³¼⅜   ± ¿ Ω  ® ¥ÛÎÔ \u030a\u0304Â        \u0301\u030c\u0300¦  ©‚‘’º ÷",
  ],
  jp: [
    " 1234567890-^qwertyuiop@[asdfghjkl;:] zxcvbnm,./\\",
    " !\"#$%&'()~= QWERTYUIOP`{ASDFGHJKL+*} ZXCVBNM<>?|_",
  ],
};

// Of each keyboard: character → { code, shift, altGr }.
export const LAYOUTS = Object.fromEntries(Object.entries(ROWS).map(([name, levels]) => {
  const layout = { " ": { code: "Space" } };
  levels.forEach((row, level) => Array.from(row).forEach((character, index) => {
    if (character !== " ") layout[character] ??= { code: CODES[index], shift: level % 2 === 1, altGr: level > 1 };
  }));
  return [name, layout];
}));
