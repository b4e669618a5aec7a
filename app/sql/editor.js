// The editor over the text area below it, and beside it the atlas's tables. Every change goes into the text area,
// which Streamlit knows: without this script it is the editor. All text is put in as text, never as HTML.
const library = import(new URL("app/static/codemirror.js", document.baseURI));

// What DuckDB has beside standard SQL is what people use here.
const KEYWORDS = `all and anti any as asc asof between by case cast cross desc distinct else end except exclude exists
  explain false filter first following from full group having ilike in inner intersect is join lambda last lateral left
  like limit natural not null nulls offset on or order outer over partition pivot preceding positional qualify range
  recursive replace right row rows sample select semi similar summarize then true unbounded union unnest unpivot using
  values when where window with within`;
const TYPES = "bigint blob boolean date decimal double float hugeint integer interval smallint struct tinyint varchar";
const FUNCTIONS = `abs any_value arg_max arg_min array_agg avg bool_and bool_or ceil coalesce concat contains corr count
  dense_rank exp first floor greatest histogram if ifnull lag last lead least length list list_aggregate list_bool_or
  list_contains list_filter list_sort list_sum list_transform ln log lower max mean median min mode ntile nullif
  percent_rank quantile_cont range rank regexp_extract regexp_matches replace round row_number sign split sqrt starts_with
  stddev string_agg struct_extract substring sum trim upper variance`;

const words = (text) => text.split(/\s+/).join(" ");
const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
};

// React keeps the text of its inputs: a change needs the element's own setter and an event.
const setText = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;

async function makeEditor(data, place) {
  const cm = await library;
  const area = () => document.querySelector(data.into);
  const commit = () => {
    area()?.dispatchEvent(new FocusEvent("focusout", { bubbles: true }));
    return false;
  };
  const changed = (update) => {
    if (!update.docChanged || !area()) return;
    setText.call(area(), update.state.doc.toString());
    area().dispatchEvent(new Event("input", { bubbles: true }));
  };
  const dialect = cm.SQLDialect.define({
    keywords: words(KEYWORDS), types: TYPES, builtin: words(FUNCTIONS), doubleDollarQuotedStrings: true, specialVar: "$",
    caseInsensitiveIdentifiers: true,
  });
  const colour = (name) => `var(--st-${name}-text-color)`;
  const style = cm.HighlightStyle.define([
    { tag: cm.tags.keyword, color: colour("violet"), fontWeight: "600" },
    { tag: [cm.tags.string, cm.tags.special(cm.tags.string)], color: colour("green") },
    { tag: [cm.tags.number, cm.tags.bool, cm.tags.null], color: colour("orange") },
    { tag: [cm.tags.standard(cm.tags.name), cm.tags.typeName], color: colour("blue") },
    { tag: cm.tags.special(cm.tags.name), color: colour("red") },
    { tag: cm.tags.comment, fontStyle: "italic", opacity: "0.75" },
  ]);
  const completeColumns = cm.ifNotIn(
    ["String", "LineComment", "BlockComment"], cm.completeFromList(columnsOf(data)));
  return new cm.EditorView({
    parent: place,
    doc: data.sql,
    selection: { anchor: data.sql.length },
    extensions: [
      cm.Prec.highest(cm.keymap.of([{ key: "Mod-Enter", run: () => (commit(), true) }])),
      cm.keymap.of([{ key: "Tab", run: cm.acceptCompletion }]),
      cm.minimalSetup,
      cm.bracketMatching(),
      cm.autocompletion({ icons: false }),
      cm.sql({ dialect, schema: tablesOf(data), upperCaseKeywords: true }),
      dialect.language.data.of({
        autocomplete: (context) => context.matchBefore(/[.'"]\w*/) ? null : completeColumns(context),
      }),
      cm.syntaxHighlighting(style),
      cm.EditorView.lineWrapping,
      cm.EditorView.contentAttributes.of({ "aria-label": "Query" }),
      cm.EditorState.changeFilter.of((change) => change.newDoc.length <= data.longest),
      cm.EditorView.updateListener.of(changed),
      cm.EditorView.domEventHandlers({ blur: commit }),
    ],
  });
}

// What is completed: a table's columns after its name or alias, and every column anywhere.
const column = (each) => ({ label: each.name, type: "property", detail: each.type, info: each.sentence });
const tablesOf = (data) => Object.fromEntries(data.tables.map((table) => [table.name, {
  self: { label: table.name, type: "class", detail: table.kind, info: table.sentence },
  children: table.columns.map(column),
}]));
const columnsOf = (data) => [
  ...new Map(data.tables.flatMap((table) => table.columns.map((each) => [each.name, column(each)]))).values(),
];

function insert(editor, name) {
  const { from, to } = editor.state.selection.main;
  const before = editor.state.sliceDoc(0, from), after = editor.state.sliceDoc(to);
  const word = (/[\w$"]$/.test(before) ? " " : "") + name + (/^[\w$"]/.test(after) ? " " : "");
  editor.dispatch({ changes: { from, to, insert: word }, selection: { anchor: from + word.length } });
  editor.focus();
}

function schemaOf(data, insertName) {
  const button = (name) => {
    const made = element("button", name);
    made.type = "button";
    made.title = "Insert " + name;
    made.setAttribute("aria-label", made.title);
    // The editor keeps the focus: leaving it would run the page again.
    made.onmousedown = (event) => event.preventDefault();
    made.onclick = () => insertName(name);
    return made;
  };
  const item = (...parts) => {
    const made = element("li");
    made.append(...parts);
    return made;
  };
  return data.tables.map((table) => {
    const details = element("details"), summary = element("summary"), list = element("ul");
    summary.append(element("span", table.name, "name"), element("span", table.kind, "kind"));
    list.append(item(button(table.name), element("span", table.sentence)), ...table.columns.map((each) =>
      item(button(each.name), element("span", each.type, "type"), element("span", each.sentence))));
    details.append(summary, list);
    return details;
  });
}

export default async function ({ data, parentElement }) {
  const root = parentElement.querySelector(".sql-editor");
  const tables = JSON.stringify(data.tables);
  if (root.tables !== tables) {
    // Another atlas completes other words: a new editor, which keeps the text.
    root.tables = tables;
    root.querySelector(".all").open = window.innerWidth >= 640;
    root.querySelector(".schema").replaceChildren(
      ...schemaOf(data, async (name) => insert(await root.editor, name)));
    const before = await root.editor;
    const text = before && root.filled === data.filled ? before.state.doc.toString() : data.sql;
    before?.destroy();
    root.filled = data.filled;
    root.editor = makeEditor({ ...data, sql: text }, root.querySelector(".text"));
  }
  const editor = await root.editor;
  root.closest(".st-key-sql-editor").dataset.ready = "";
  if (root.filled !== data.filled) {
    root.filled = data.filled;
    editor.dispatch({
      changes: { from: 0, to: editor.state.doc.length, insert: data.sql }, selection: { anchor: data.sql.length },
    });
  }
  return async () => (await root.editor).destroy();
}
