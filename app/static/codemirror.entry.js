// What the SQL editor takes from CodeMirror; codemirror.js is made from this file, so that no page asks a network
// for it. In an empty folder with this file and its banner (the first comment of codemirror.js) as banner.txt:
//
//   npm install codemirror@6 @codemirror/lang-sql@6 esbuild
//   npx esbuild codemirror.entry.js --bundle --minify --format=esm --target=es2022 --legal-comments=none \
//     --banner:js="$(cat banner.txt)" --outfile=codemirror.js
export { acceptCompletion, autocompletion, completeFromList, ifNotIn } from "@codemirror/autocomplete";
export { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
export { sql, SQLDialect } from "@codemirror/lang-sql";
export { EditorState, Prec } from "@codemirror/state";
export { EditorView, keymap } from "@codemirror/view";
export { minimalSetup } from "codemirror";
export { tags } from "@lezer/highlight";
