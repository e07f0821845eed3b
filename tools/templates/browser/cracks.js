// From a photo's map to its cracks: mask.py and graph.py of crackutils.inspection in JavaScript, without widths.
// Images are flat arrays, row by row.

const CELL = 16, SHORTEST = 20, SURE = 2, SIDE = 9, LOW = 0.5, CORE = 0.6, MOST = 42; // as in mask.py
const HOLE = [[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]], PAD = 32, GAP = 15, TANGENT = 8, SPUR = 4; // as in graph.py
const AROUND = [[-1, 0], [-1, 1], [0, 1], [1, 1], [1, 0], [1, -1], [0, -1], [-1, -1]]; // dy, dx, clockwise from north

/** Label what hangs together: calls `act` with the pixels of each part of at most `most` for which `inside(index)` holds. */
function forParts(w, h, inside, steps, act, most = Infinity) {
  const seen = new Uint8Array(w * h);
  for (let start = 0; start < w * h; start++) {
    if (seen[start] || !inside(start)) continue;
    const part = [start];
    seen[start] = 1; // 2: of a part that is too large
    let large = false;
    for (let k = 0; k < part.length && !large; k++) {
      const y = Math.floor(part[k] / w), x = part[k] % w;
      for (const [dy, dx] of steps) {
        const next = part[k] + dy * w + dx;
        if (y + dy < 0 || y + dy >= h || x + dx < 0 || x + dx >= w || !inside(next)) continue;
        large ||= seen[next] === 2 || part.length > most;
        if (!seen[next]) part.push(next);
        seen[next] ||= 1;
      }
    }
    if (large) for (const k of part) seen[k] = 2;
    else act(part);
  }
}

const cellOf = (k, w, cellsWide) => Math.floor(k / w / CELL) * cellsWide + Math.floor((k % w) / CELL);

/** For each cell the mean logit of the cells around it that hold pixels of at least `low`: `_average`. */
function average(cells, pixels, w, cellsWide, low) {
  const count = new Float32Array(cells.length), rows = cells.length / cellsWide, reach = (SIDE - 1) / 2;
  for (let k = 0; k < pixels.length; k++) if (pixels[k] >= low) count[cellOf(k, w, cellsWide)]++;
  return cells.map((_, at) => {
    let total = 0, weight = 0;
    const row = Math.floor(at / cellsWide), col = at % cellsWide;
    for (let y = Math.max(0, row - reach); y <= Math.min(rows - 1, row + reach); y++)
      for (let x = Math.max(0, col - reach); x <= Math.min(cellsWide - 1, col + reach); x++) {
        const k = y * cellsWide + x, p = Math.min(Math.max(cells[k], 1e-7), 1 - 1e-7);
        total += Math.min(count[k], CELL) * Math.log(p / (1 - p));
        weight += Math.min(count[k], CELL);
      }
    return total / Math.max(weight, 1);
  });
}

/** The mask of cracks, from probabilities 0-255 of pixels and 0-1 of cells: `crack_mask`. */
export function crackMask(pixels, w, h, cells, cellsWide, threshold) {
  const high = threshold * 255, least = LOW * high, found = new Uint8Array(w * h);
  const mean = average(cells, pixels, w, cellsWide, least);
  const sure = threshold < 0.5 ? Math.log(threshold / (1 - threshold)) + 2 * threshold * SURE : SURE;
  forParts(w, h, (k) => pixels[k] >= least, AROUND, (part) => {
    let [left, right, top, low, most, cell] = [w, 0, h, 0, 0, -Infinity];
    for (const k of part) {
      const y = Math.floor(k / w), x = k % w;
      left = Math.min(left, x); right = Math.max(right, x + 1);
      top = Math.min(top, y); low = Math.max(low, y + 1);
      most = Math.max(most, pixels[k]);
      cell = Math.max(cell, mean[cellOf(k, w, cellsWide)]);
    }
    if (Math.hypot(right - left, low - top) >= SHORTEST && cell >= sure && most >= high)
      for (const k of part) found[k] = 1;
  });
  // what is doubtful counts by its centre line, and by what it encloses: `_thin_and_fill`
  const line = thin(found, w, h), full = high + 255 * CORE * threshold * (1 - threshold);
  const crack = found.map((one, k) => one && (line[k] || pixels[k] >= full) ? 1 : 0);
  const straight = AROUND.filter(([dy, dx]) => !dy || !dx);
  forParts(w, h, (k) => found[k] && !crack[k], straight, (part) => {
    const open = part.some((k) => straight.some(([dy, dx]) => {
      const y = Math.floor(k / w) + dy, x = (k % w) + dx;
      return y >= 0 && y < h && x >= 0 && x < w && !found[y * w + x];
    }));
    if (!open) for (const k of part) crack[k] = 1;
  });
  const filled = crack.slice();
  forParts(w, h, (k) => !crack[k], straight, (part) => {
    if (isFilled(part, crack, w, h)) for (const k of part) filled[k] = 1;
  }, MOST * MOST);
  return filled;
}

/** Whether a hole is small: a side of 2 pixels or less, or half of the ring around it, as wide as its radius, is crack. */
function isFilled(part, crack, w, h) {
  const xs = part.map((k) => k % w), ys = part.map((k) => Math.floor(k / w));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [wide, high] = [Math.max(...xs) - left + 1, Math.max(...ys) - top + 1];
  if (!left || !top || left + wide === w || top + high === h || Math.max(wide, high) > MOST) return false;
  if (Math.min(wide, high) <= 2) return true;
  const side = 2 * MOST + 2, here = new Uint8Array(side * side), rim = [], edge = []; // 1: hole, 2: its edge, 3: ring
  const at = (x, y) => (y - top + MOST / 2) * side + x - left + MOST / 2;
  part.forEach((_, i) => { here[at(xs[i], ys[i])] = 1; });
  part.forEach((_, i) => {
    let outer = false;
    for (const [dy, dx] of AROUND) {
      const k = at(xs[i] + dx, ys[i] + dy);
      if (here[k] === 1) continue;
      outer = true;
      if (here[k] === 0) edge.push([xs[i] + dx, ys[i] + dy]);
      here[k] = 2;
    }
    if (outer) rim.push([xs[i], ys[i]]);
  });
  const far = (x, y) => edge.reduce((least, [ex, ey]) => Math.min(least, (ex - x) ** 2 + (ey - y) ** 2), Infinity);
  const radius = Math.ceil(Math.sqrt(part.reduce((most, _, i) => Math.max(most, far(xs[i], ys[i])), 0)));
  let count = 0, cracked = 0;
  for (const [cx, cy] of rim)
    for (let y = Math.max(0, cy - radius); y <= Math.min(h - 1, cy + radius); y++)
      for (let x = Math.max(0, cx - radius); x <= Math.min(w - 1, cx + radius); x++) {
        const k = at(x, y);
        if (here[k] === 1 || here[k] === 3 || (x - cx) ** 2 + (y - cy) ** 2 > radius ** 2) continue;
        here[k] = 3;
        count++;
        cracked += crack[y * w + x];
      }
  return cracked >= count / 2;
}

/** Thin a mask to lines (Zhang, Suen 1984). */
export function thin(mask, w, h) {
  const image = new Uint8Array((w + 2) * (h + 2)), wide = w + 2, line = new Uint8Array(w * h);
  let left = [];
  for (let k = 0; k < w * h; k++) if (mask[k]) left.push((Math.floor(k / w) + 1) * wide + (k % w) + 1);
  for (const k of left) image[k] = 1;
  const steps = AROUND.map(([dy, dx]) => dy * wide + dx), near = new Uint8Array(8);
  for (let gone = 1; gone;) {
    gone = 0;
    for (const second of [0, 1]) {
      const remove = [];
      for (const k of left) {
        let count = 0, turns = 0;
        for (let i = 0; i < 8; i++) count += near[i] = image[k + steps[i]];
        for (let i = 0; i < 8; i++) turns += !near[i] && near[(i + 1) % 8];
        const [n, e, s, o] = [near[0], near[2], near[4], near[6]];
        const edge = second ? !(n && o && (e || s)) : !(e && s && (n || o));
        if (count >= 2 && count <= 6 && turns === 1 && edge) remove.push(k);
      }
      for (const k of remove) image[k] = 0;
      gone += remove.length;
      left = left.filter((k) => image[k]);
    }
  }
  for (const k of left) line[(Math.floor(k / wide) - 1) * w + (k % wide) - 1] = 1;
  return line;
}

/** The centre lines of a mask: a list of lists of [x, y], smooth and without spurs: `thin_mask`, `trace_lines`, `prune_spurs`. */
export function centreLines(mask, w, h) {
  const wide = w + 2 * PAD, high = h + 2 * PAD, padded = new Uint8Array(wide * high);
  const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
  for (let y = 0; y < high; y++)
    for (let x = 0; x < wide; x++) padded[y * wide + x] = mask[clamp(y - PAD, h) * w + clamp(x - PAD, w)];
  const closed = spread(spread(padded, wide, high, 1), wide, high, 0); // holes and notches
  const long = thin(closed, wide, high), line = new Uint8Array(w * h);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) line[y * w + x] = long[(y + PAD) * wide + x + PAD];
  bridge(line, w, h);
  return prune(trace(line, w, h), (x, y) => distance(mask, w, h, x, y)).map(smooth);
}

/** A line smoothed along its way by a Gaussian of one pixel; its ends stay, and closed lines stay closed. */
function smooth(path) {
  const closed = path.length > 3 && String(path[0]) === String(path.at(-1)), n = path.length - closed;
  const weights = [-3, -2, -1, 0, 1, 2, 3].map((k) => Math.exp(-k * k / 2)), all = weights.reduce((a, b) => a + b);
  const take = (k) => path[closed ? (k + n) % n : Math.min(Math.max(k, 0), n - 1)];
  const points = path.slice(0, n).map((own, k) => (closed || (k && k < n - 1)) ? [0, 1].map((axis) =>
    Math.round(100 * weights.reduce((sum, weight, i) => sum + weight * take(k + i - 3)[axis], 0) / all) / 100) : own);
  return closed ? [...points, points[0]] : points;
}

/** Dilate (value 1) or erode (value 0) by a cross of 3x3 pixels. */
function spread(image, w, h, value) {
  const out = image.slice();
  for (let k = 0; k < w * h; k++) {
    if (image[k] !== value) continue;
    const y = Math.floor(k / w), x = k % w;
    for (const [dy, dx] of HOLE)
      if (y + dy >= 0 && y + dy < h && x + dx >= 0 && x + dx < w) out[k + dy * w + dx] = value;
  }
  return out;
}

/** Pixels from a point of a mask to the mask's edge, rounded up. */
function distance(mask, w, h, x, y) {
  for (let far = 1; far < 256; far++)
    for (let dy = -far; dy <= far; dy++)
      for (let dx = -far; dx <= far; dx++) {
        const inside = y + dy >= 0 && y + dy < h && x + dx >= 0 && x + dx < w;
        if (inside && Math.hypot(dy, dx) <= far && !mask[(y + dy) * w + x + dx]) return far;
      }
  return 255;
}

/** For each pixel of a line, by its index, the indices of its neighbours; no slant where two straight steps lead. */
function links(line, w, h) {
  const found = new Map(), has = (y, x) => y >= 0 && y < h && x >= 0 && x < w && line[y * w + x];
  for (let k = 0; k < w * h; k++) if (line[k]) found.set(k, []);
  for (const [k, near] of found) {
    const y = Math.floor(k / w), x = k % w;
    for (const [dy, dx] of AROUND)
      if (has(y + dy, x + dx) && !(dy && dx && (has(y + dy, x) || has(y, x + dx)))) near.push(k + dy * w + dx);
  }
  return found;
}

/** Join ends that face each other across a small gap, the nearest first. */
function bridge(line, w, h) {
  const graph = links(line, w, h), at = (k) => [k % w, Math.floor(k / w)], ends = [];
  for (const [end, near] of graph) {
    if (near.length > 1) continue;
    const path = [end, ...near];
    while (path.length < TANGENT && path.length > 1 && graph.get(path.at(-1)).length === 2)
      path.push(graph.get(path.at(-1)).find((k) => k !== path.at(-2)));
    const [x, y] = at(end), [fromX, fromY] = at(path.at(-1));
    ends.push({ x, y, ahead: [x - fromX, y - fromY], free: 2 - near.length });
  }
  const pairs = [];
  ends.forEach((one, i) => ends.slice(i + 1).forEach((other) => {
    const far = Math.hypot(other.x - one.x, other.y - one.y);
    if (far <= GAP) pairs.push([far, one, other]);
  }));
  const faces = ([ax, ay], gx, gy) => ax * gx + ay * gy >= 0.7 * Math.hypot(ax, ay) * Math.hypot(gx, gy);
  for (const [, one, other] of pairs.sort((a, b) => a[0] - b[0])) {
    const gx = other.x - one.x, gy = other.y - one.y, steps = Math.max(Math.abs(gx), Math.abs(gy));
    if (!one.free || !other.free || !faces(one.ahead, gx, gy) || !faces(other.ahead, -gx, -gy)) continue;
    one.free--; other.free--;
    for (let k = 0; k <= steps; k++)
      line[Math.round(one.y + (gy * k) / steps) * w + Math.round(one.x + (gx * k) / steps)] = 1;
  }
}

/** The lines between ends and forks; closed ones begin and end at the same pixel. */
function trace(line, w, h) {
  const graph = links(line, w, h), seen = new Set(), joined = new Set(), paths = [];
  const nodes = [...graph.keys()].filter((k) => graph.get(k).length !== 2);
  for (const k of nodes) seen.add(k);
  for (const start of [...nodes, ...graph.keys()]) { // rings have no nodes
    const ring = graph.get(start).length === 2;
    if (ring && seen.has(start)) continue;
    seen.add(start);
    for (let step of ring ? graph.get(start).slice(0, 1) : graph.get(start)) {
      if (seen.has(step) && graph.get(step).length === 2) continue; // walked from its other end
      const path = [start, step];
      while (graph.get(step).length === 2 && step !== start) {
        seen.add(step);
        const before = path.at(-2);
        step = graph.get(step).find((k) => k !== before);
        path.push(step);
      }
      const pair = `${step} ${start}`;
      if (path.length === 2 && joined.has(pair)) continue;
      if (path.length === 2) joined.add(`${start} ${step}`);
      paths.push(path.map((k) => [k % w, Math.floor(k / w)]));
    }
  }
  return paths;
}

/** The paths without branches that hardly leave the crack; the shortest goes first, and what then meets is joined. */
function prune(paths, reach) {
  const key = ([x, y]) => `${x} ${y}`, ends = (path) => [key(path[0]), key(path.at(-1))];
  const kept = new Set(paths), at = new Map(), heap = paths.slice();
  const add = (path) => ends(path).forEach((node) => at.set(node, (at.get(node) ?? new Set()).add(path)));
  kept.forEach(add);
  const shared = (a, b) => [...at.get(a)].filter((path) => at.get(b).has(path)).length > 1;
  while (heap.length) {
    const path = heap.splice(heap.reduce((best, one, k) => (one.length < heap[best].length ? k : best), 0), 1)[0];
    if (!kept.has(path)) continue;
    const [one, other] = ends(path), free = [one, other].map((node) => at.get(node).size === 1);
    const fork = free[0] ? path.at(-1) : path[0], double = one === other || shared(one, other);
    if ((free[0] && free[1]) || !(free[0] || free[1] || double)) continue;
    if (path.length - 1 > 1.5 * reach(...fork) + SPUR) continue;
    kept.delete(path);
    for (const node of new Set([one, other])) {
      at.get(node).delete(path);
      const rest = [...at.get(node)];
      if (rest.length !== 2 || rest.some((left) => ends(left)[0] === ends(left)[1])) continue;
      const first = ends(rest[0])[1] === node ? rest[0] : rest[0].slice().reverse();
      const last = ends(rest[1])[0] === node ? rest[1] : rest[1].slice().reverse();
      const whole = [...first, ...last.slice(1)];
      for (const old of rest) {
        kept.delete(old);
        for (const end of ends(old)) at.get(end).delete(old);
      }
      kept.add(whole);
      add(whole);
      heap.push(whole);
    }
  }
  return [...kept];
}

/** How many cracks there are: lines that share an end are one. */
export function countCracks(paths) {
  const crack = new Map(), find = (node) => (crack.get(node) === node ? node : find(crack.get(node)));
  for (const path of paths) {
    const [one, other] = [path[0], path.at(-1)].map(String);
    for (const node of [one, other]) if (!crack.has(node)) crack.set(node, node);
    crack.set(find(one), find(other));
  }
  return new Set([...crack.keys()].map(find)).size;
}
