// Neuron lists in the browser's storage: what the server has changed is written, what it lacks is sent to it.
const KEY = "knowledge-neuron-lists";
let written = 0, sent = null;

export default function ({ data, setStateValue }) {
  try {
    if (data.changed && data.changed !== written) {
      localStorage.setItem(KEY, data.text);
      written = data.changed;
    }
    const kept = localStorage.getItem(KEY) ?? data.text;
    if (kept === data.text || kept === sent) return;
    sent = kept;
    setStateValue("text", kept);
  } catch {
    // A browser that stores nothing: lists last as long as the session.
  }
}
