// A store of files in a directory: each write is durable when it returns (fsync of the file, rename, fsync of the
// directory), as LDK's FilesystemStore does it. The directory may be on any file system; on a Perdure array, an fsync
// is a FLUSH that returns when every disk has proved that it holds the data.

import { mkdir, open, readFile, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';

async function synced(path, flags, act) {
  const file = await open(path, flags, 0o600);
  try {
    await act(file);
    await file.sync();
  } finally {
    await file.close();
  }
}

export class Files {
  constructor(directory) {
    this.directory = directory;
  }

  async open() {
    await mkdir(this.directory, { recursive: true });
  }

  /** The value of a key, or null. */
  async read(key) {
    return readFile(join(this.directory, key)).catch((error) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
  }

  async keys() {
    return (await readdir(this.directory)).filter((name) => !name.endsWith('.new'));
  }

  /** Write pairs of key and bytes, in their order: after a crash the first ones may be there and the last ones not. */
  async write(entries) {
    for (const [key, value] of entries) {
      const path = join(this.directory, key);
      await synced(`${path}.new`, 'w', (file) => file.writeFile(value));
      await rename(`${path}.new`, path);
      await synced(this.directory, 'r', () => {});
    }
  }
}
