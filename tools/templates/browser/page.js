// The page "Try it": a photo goes through the detector in this browser, by LiteRT.js; nothing is sent anywhere.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { centreLines, countCracks, crackMask } from "./cracks.js";

const SIDE = 512, CELL = 16, RIM = 2, MOST = 50e6; // window, cell and rim as in tiling.py; pixels that a browser holds
const $ = (id) => document.getElementById(id), here = new URL(".", import.meta.url);
let network, photo, map, lines = [];

const breathe = () => new Promise((done) => setTimeout(done)); // lets the page draw
const tell = (text) => { $("try-state").textContent = text; };

/** Where windows begin, in cells: the last ends with the photo's last cell. */
function starts(cells) {
  const side = SIDE / CELL, found = [];
  for (let at = 0; at < cells - side; at += side - 2 * RIM) found.push(at);
  return [...found, Math.max(0, cells - side)];
}

/** Probabilities of a photo, 0-255 of pixels and 0-1 of cells: `map_photo`. */
async function mapPhoto({ data, w, h }) {
  const wide = Math.ceil(w / CELL), high = Math.ceil(h / CELL), side = SIDE / CELL;
  const pixels = new Uint8Array(w * h), cells = new Float32Array(wide * high);
  const mirror = (at, most) => { // beyond the photo its mirror image goes on
    const turn = ((at % (2 * most)) + 2 * most) % (2 * most);
    return turn < most ? turn : 2 * most - 1 - turn;
  };
  const corners = starts(high).flatMap((y) => starts(wide).map((x) => [y, x]));
  for (const [done, [top, left]] of corners.entries()) {
    tell(`Looking for cracks: window ${done + 1} of ${corners.length}`);
    await breathe();
    const part = new Uint8Array(SIDE * SIDE * 3);
    for (let y = 0, to = 0; y < SIDE; y++)
      for (let x = 0; x < SIDE; x++) {
        const from = 4 * (mirror(top * CELL + y, h) * w + mirror(left * CELL + x, w));
        for (let band = 0; band < 3; band++) part[to++] = data[from + band];
      }
    const input = new Tensor(part, [1, SIDE, SIDE, 3]), outputs = await network.run([input]);
    const found = await Promise.all(outputs.map((tensor) => tensor.data()));
    const [coarse, fine] = found.sort((a, b) => a.length - b.length);
    for (let y = top && RIM; y < side && top + y < high; y++)
      for (let x = left && RIM; x < side && left + x < wide; x++) cells[(top + y) * wide + left + x] = coarse[y * side + x];
    for (let y = top && RIM * CELL; y < SIDE && top * CELL + y < h; y++)
      for (let x = left && RIM * CELL; x < SIDE && left * CELL + x < w; x++)
        pixels[(top * CELL + y) * w + left * CELL + x] = 255 * fine[y * SIDE + x];
    [input, ...outputs].forEach((tensor) => tensor.delete());
  }
  return { pixels, cells, wide };
}

/** Lines of the map at the threshold, drawn over the photo. */
async function show() {
  tell("Measuring the lines");
  await breathe();
  const threshold = Number($("try-threshold").value), { data, w, h } = photo;
  const mask = crackMask(map.pixels, w, h, map.cells, map.wide, threshold);
  lines = centreLines(mask, w, h);
  const canvas = $("try-picture"), draw = canvas.getContext("2d"), thick = Math.max(2, w / 500);
  [canvas.width, canvas.height] = [w, h];
  draw.putImageData(new ImageData(data, w, h), 0, 0);
  for (const [colour, width] of [["white", 2 * thick], ["#d55e00", thick]]) { // seen on light and dark concrete
    [draw.strokeStyle, draw.lineWidth, draw.lineJoin] = [colour, width, "round"];
    for (const line of lines) {
      draw.beginPath();
      for (const [x, y] of line) draw.lineTo(x + 0.5, y + 0.5);
      draw.stroke();
    }
  }
  const length = lines.reduce((sum, line) => sum + line.slice(1).reduce(
    (own, [x, y], k) => own + Math.hypot(x - line[k][0], y - line[k][1]), 0), 0);
  const count = countCracks(lines), told = count ? `${count} crack${count > 1 ? "s" : ""}, ${Math.round(length).toLocaleString("en")} pixels long in all.`
    : "No crack found.";
  tell(`${told} They are candidates: look at each. Joints and scratches are taken for cracks at times.`);
  for (const id of ["try-save", "try-threshold"]) $(id).disabled = false;
  $("try-it").dataset.done = `${w}x${h}`;
}

async function open(file) {
  delete $("try-it").dataset.done;
  for (const id of ["try-save", "try-threshold", "try-file"]) $(id).disabled = true;
  try {
    tell("Reading the photo");
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    } catch {
      throw new Error(`${file.name} is no picture that this browser reads. Save it as JPEG or PNG.`);
    }
    const [w, h] = [bitmap.width, bitmap.height];
    if (w * h > MOST) throw new Error(`${file.name} has ${Math.round(w * h / 1e6)} megapixels; this page takes 50. Use crackutils inspect.`);
    if (Math.min(w, h) < 32) throw new Error(`${file.name} is smaller than 32 pixels. Give a larger photo.`);
    const canvas = new OffscreenCanvas(w, h), draw = canvas.getContext("2d");
    draw.drawImage(bitmap, 0, 0);
    photo = { data: draw.getImageData(0, 0, w, h).data, w, h, name: file.name };
    if (!network) {
      tell("Loading the detector (11 MB, once)");
      await loadLiteRt(new URL("litert/wasm/", here).href);
      network = await loadAndCompile(new URL("detector.tflite", here).href, { accelerator: "wasm" });
    }
    map = await mapPhoto(photo);
    await show();
  } catch (error) {
    tell(error.message);
  }
  $("try-file").disabled = false;
}

/** Save the lines in the form of cracks.geojson: places in pixels, y down. */
function save() {
  const features = lines.map((points, k) => ({
    type: "Feature", properties: { photo: photo.name, piece: k + 1, unit: "px" },
    geometry: { type: "LineString", coordinates: points },
  }));
  const text = JSON.stringify({ type: "FeatureCollection", name: "cracks", features });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
  link.download = "cracks.geojson";
  link.click();
  URL.revokeObjectURL(link.href);
}

$("try-file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
$("try-it").addEventListener("dragover", (event) => event.preventDefault());
$("try-it").addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0] && !$("try-file").disabled) open(event.dataTransfer.files[0]);
});
$("try-threshold").addEventListener("input", () => { $("try-value").textContent = $("try-threshold").value; });
$("try-threshold").addEventListener("change", show);
$("try-save").addEventListener("click", save);
tell("Choose a photo of concrete, or drop it here.");
