/** `rhyzome image`: the global images, which every tenant sees. */
import { createReadStream, statSync } from 'node:fs';
import { Command } from 'commander';
import type { Database } from '#libs/db';
import type { GlobalImage, ImageImport } from '#libs/kinds/image';
import type { DirectoryStore } from '#libs/storage';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { pair, wholeNumber } from '../option-values.js';
import { fields, table } from '../table.js';

/** Far above any image; a limit all the same. */
const MAX_IMAGE_BYTES = 2 * 1024 ** 4;

interface ImportFlags {
  tag?: Record<string, string>;
  osInfo?: Record<string, string>;
  sha256?: string;
  raw?: boolean;
  replace?: boolean;
  placeholder?: boolean;
}

export function imageCommand(context: Context): Command {
  return new Command('image')
    .description('global images, which every tenant can boot')
    .addCommand(importCommand(context))
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(remove(context))
    .addCommand(sweep(context));
}

function importCommand(context: Context): Command {
  return new Command('import')
    .description('bring in an image; the same again changes nothing')
    .argument('<name>', 'what tenants call it')
    .argument('[file]', 'a qcow2, or a raw disk')
    .option('--tag <k=v>', 'a tag (may be repeated)', pair)
    .option('--os-info <k=v>', 'what is known of the operating system (may be repeated)', pair)
    .option('--sha256 <hex>', 'refuse the file if this is not its digest')
    .option('--raw', 'it is a raw disk, though it has no boot sector')
    .option('--replace', 'put it in the place of other content under this name')
    .option('--placeholder', 'instead of a file: nothing that boots, for nodes that simulate machines')
    .action(async (name: string, file: string | undefined, flags: ImportFlags) => {
      if (Boolean(file) === Boolean(flags.placeholder))
        throw new CliError(exitStatus.usage, 'usage', 'Name a file, or --placeholder.');
      const { checkImageImport } = await import('#libs/kinds/image');
      const asked = { name, tags: flags.tag, osInfo: flags.osInfo, replace: flags.replace };
      checkImageImport(asked);
      const store = await openStore(context);
      const { image, outcome } = await context.database(async (db) => {
        const content = await storeContent(context, db, store, file, flags);
        return addRow(context, db, store, { ...asked, content, createdBy: administrator() });
      });
      const verb = { created: 'Imported', changed: 'Changed', unchanged: 'Unchanged:' }[outcome];
      context.show(image, `${verb} the image ${name}.\n${words(image)}`);
    });
}

/** The content store that the settings name. */
async function openStore(context: Context): Promise<DirectoryStore> {
  const { settings } = await context.settings(['storage']);
  const { DirectoryStore } = await import('#libs/storage');
  return new DirectoryStore(settings.storage.dir);
}

/** Puts the bytes into the store, then looks at that copy, which nobody changes any more. */
async function storeContent(
  context: Context,
  db: Database,
  store: DirectoryStore,
  file: string | undefined,
  flags: ImportFlags,
): Promise<ImageImport['content']> {
  if (file === undefined) {
    const { placeholderContent, placeholderImage } = await import('#libs/kinds/image');
    const stored = await store.put(placeholderContent(), { maxBytes: MAX_IMAGE_BYTES });
    return { ...stored, ...placeholderImage };
  }
  const [{ inspectImage }, { listGlobalImages }] = await Promise.all([
    import('#libs/storage'),
    import('#libs/kinds/image'),
  ]);
  // The database first: without it the copy would be for nothing.
  await db.operatorTransaction(listGlobalImages);
  const stored = await store.put(openFile(file), {
    maxBytes: MAX_IMAGE_BYTES,
    ...(flags.sha256 !== undefined && { sha256: flags.sha256 }),
  });
  try {
    const found = await inspectImage(store.path(stored.sha256), flags.raw ? { format: 'raw' } : {});
    return { ...stored, format: found.format, virtualSizeBytes: found.virtualSizeBytes };
  } catch (error) {
    await dropContent(context, db, store, stored.sha256);
    throw error;
  }
}

function openFile(file: string) {
  try {
    if (statSync(file).isFile()) return createReadStream(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const status = code === 'ENOENT' ? exitStatus.notFound : exitStatus.refused;
    throw new CliError(status, 'file_unreadable', `${file} cannot be read (${code}).`, { cause: error });
  }
  throw new CliError(exitStatus.usage, 'usage', `${file} is not a file.`);
}

async function addRow(context: Context, db: Database, store: DirectoryStore, asked: ImageImport) {
  const { addGlobalImage } = await import('#libs/kinds/image');
  const { sha256 } = asked.content;
  try {
    const added = await context.changeOn(db, async ({ tx, audit }) => {
      const done = await addGlobalImage(tx, store, asked);
      if (done.outcome !== 'unchanged') await audit({ ...auditOf('import', done.image), details: { sha256 } });
      return done;
    });
    if (added.replaced) await dropContent(context, db, store, added.replaced);
    return added;
  } catch (error) {
    await dropContent(context, db, store, sha256);
    throw error;
  }
}

async function dropContent(context: Context, db: Database, store: DirectoryStore, sha256: string): Promise<boolean> {
  const { removeContentIfUnused } = await import('#libs/kinds/image');
  return context.changeOn(db, ({ tx }) => removeContentIfUnused(tx, store, sha256));
}

function list(context: Context): Command {
  return new Command('list').description('all global images').action(async () => {
    const { listGlobalImages } = await import('#libs/kinds/image');
    const images = await context.read(listGlobalImages);
    const rows = images.map((i) => [
      i.name,
      i.id,
      i.format,
      i.sizeBytes,
      i.virtualSizeBytes,
      i.sha256.slice(0, 12),
      note(i),
    ]);
    context.show(images, table(['NAME', 'ID', 'FORMAT', 'BYTES', 'DISK BYTES', 'SHA256', 'NOTE'], rows));
  });
}

function note({ placeholder }: GlobalImage): string {
  return placeholder ? 'placeholder' : '';
}

function show(context: Context): Command {
  return new Command('show')
    .description('one global image')
    .argument('<idOrName>')
    .action(async (idOrName: string) => {
      const { findGlobalImage } = await import('#libs/kinds/image');
      const image = await context.read((tx) => findGlobalImage(tx, idOrName));
      context.show(image, words(image));
    });
}

function remove(context: Context): Command {
  return new Command('remove')
    .description('remove a global image that no instance uses')
    .argument('<idOrName>')
    .action(async (idOrName: string) => {
      const { removeGlobalImage } = await import('#libs/kinds/image');
      const store = await openStore(context);
      const image = await context.database(async (db) => {
        const removed = await context.changeOn(db, async ({ tx, audit }) => {
          const gone = await removeGlobalImage(tx, idOrName);
          await audit({ ...auditOf('remove', gone), details: { sha256: gone.sha256 } });
          return gone;
        });
        await dropContent(context, db, store, removed.sha256);
        return removed;
      });
      context.show(image, `Removed the image ${image.name}.`);
    });
}

function sweep(context: Context): Command {
  return new Command('sweep')
    .description('remove content without an image, which imports that were killed left behind')
    .option('--older-than <seconds>', 'only what is at least so old (default: 3600)', wholeNumber(0, 10 ** 9), 3600)
    .action(async ({ olderThan }: { olderThan: number }) => {
      const { sweepContents } = await import('#libs/kinds/image');
      const store = await openStore(context);
      const temporary = await store.sweep(olderThan * 1000);
      const contents = await context.change(async ({ tx, audit }) => {
        const removed = await sweepContents(tx, store, olderThan * 1000);
        if (removed.length > 0)
          await audit({ tenantId: 'system', action: 'image.sweep', details: { sha256: removed.map((c) => c.sha256) } });
        return removed;
      });
      const bytes = contents.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
      context.show(
        { contents, temporary },
        `Removed ${contents.length} contents (${bytes} bytes) and ${temporary} temporary files.`,
      );
    });
}

function auditOf(verb: string, { id, name }: GlobalImage) {
  return { tenantId: 'system', action: `image.${verb}`, kind: 'image', resourceId: id, resourceName: name };
}

function words(image: GlobalImage): string {
  return fields({
    id: image.id,
    name: image.name,
    tags: image.tags,
    'os info': image.osInfo,
    format: image.format,
    bytes: image.sizeBytes,
    'disk bytes': image.virtualSizeBytes,
    sha256: image.sha256,
    placeholder: image.placeholder,
    created: image.createdAt,
    'created by': image.createdBy,
  });
}
