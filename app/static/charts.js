// The charts that a page shows, as SVG or PNG: a browser has already drawn them, so the server does nothing for it.
const CHARTS = '[data-testid="stVegaLiteChart"]';
const SCALE = 3; // pixels of a PNG for one of the page: sharp in print

function save(href, name) {
  const link = document.createElement("a");
  Object.assign(link, { href, download: name });
  link.click();
}

// A picture knows no fonts of the page, and another font's texts run into each other.
async function fontRule() {
  const font = document.querySelector("link[rel=preload][as=font]");
  if (!font) return "";
  const bytes = await (await fetch(font.href)).blob();
  const reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(bytes); });
  return `@font-face { font-family: "Source Sans"; font-weight: 100 900; src: url("${reader.result}"); }`;
}

async function asSvg(svg) {
  const copy = svg.cloneNode(true);
  const style = document.createElementNS(svg.namespaceURI, "style");
  style.textContent = await fontRule();
  const ground = document.createElementNS(svg.namespaceURI, "rect");
  ground.setAttribute("width", "100%");
  ground.setAttribute("height", "100%");
  ground.setAttribute("fill", svg.style.backgroundColor || "white");
  copy.prepend(style, ground);
  return "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
}

async function asPng(svg) {
  const image = new Image();
  image.src = await asSvg(svg);
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = svg.width.baseVal.value * SCALE;
  canvas.height = svg.height.baseVal.value * SCALE;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

export default function ({ parentElement }) {
  const list = parentElement.querySelector(".charts");
  const button = (kind, chart, make) => {
    const made = document.createElement("button");
    made.textContent = kind.toUpperCase();
    made.setAttribute("aria-label", `${made.textContent} of: ${chart.ariaLabel}`);
    const name = chart.ariaLabel.replace(/[^A-Za-z0-9]+/g, "-").slice(0, 100);
    made.onclick = async () => save(await make(), `${name || "chart"}.${kind}`);
    return made;
  };
  list.replaceChildren(...[...document.querySelectorAll(CHARTS)].map((chart) => {
    const item = document.createElement("li"), label = document.createElement("p");
    label.textContent = chart.ariaLabel;
    // Streamlit draws a chart of very many marks on a canvas.
    const svg = chart.querySelector("svg"), canvas = chart.querySelector("canvas");
    item.append(label, ...(svg
      ? [button("png", chart, () => asPng(svg)), button("svg", chart, () => asSvg(svg))]
      : canvas ? [button("png", chart, () => canvas.toDataURL("image/png"))] : []));
    return item;
  }));
}
