// Files as one .zip, stored as they are: photographs are compressed already.

const MOST = 0xffffffff;
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit += 1) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

async function checksum(blob) {
  let sum = MOST;
  for (const byte of new Uint8Array(await blob.arrayBuffer())) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ MOST) >>> 0;
}

/** Numbers of two or four bytes, as [bytes, value]. */
function fields(...values) {
  const view = new DataView(new ArrayBuffer(values.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of values) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view;
}

/** A Blob of `[name, blob, milliseconds]` entries; throws where it would be larger than 4 GB. */
export async function zip(entries) {
  const files = [], directory = [];
  let at = 0, length = 0;
  for (const [name, blob, time] of entries) {
    const title = new TextEncoder().encode(name), when = new Date(time);
    const clock = (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1);
    const day = (Math.max(0, when.getFullYear() - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate();
    // Version, names in UTF-8, stored, time, checksum, both sizes, lengths of name and extra field.
    const common = [[2, 20], [2, 0x800], [2, 0], [2, clock], [2, day], [4, await checksum(blob)],
      [4, blob.size], [4, blob.size], [2, title.length], [2, 0]];
    const head = fields([4, 0x04034b50], ...common);
    const entry = fields([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]);
    files.push(head, title, blob);
    directory.push(entry, title);
    at += head.byteLength + title.length + blob.size;
    length += entry.byteLength + title.length;
    if (at + length > MOST) throw new Error("together they are larger than 4 GB: download them one by one");
  }
  const count = entries.length;
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, at], [2, 0]);
  return new Blob([...files, ...directory, end], { type: "application/zip" });
}
