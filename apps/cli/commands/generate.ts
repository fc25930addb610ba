/** `rhyzome generate`: code for developers. It reads and writes a checkout and never the database. */
import { Command } from 'commander';
import type { Context } from '../context.js';

export function generateCommand(context: Context): Command {
  return new Command('generate')
    .description('code in a checkout of Rhyzome, for its developers')
    .addCommand(kind(context));
}

function kind(context: Context): Command {
  return new Command('kind')
    .description('all that a new kind of resource needs: its folder, migration, tests and reference')
    .argument('<name>', 'singular, e.g. key-pair')
    .option('--plural <name>', 'as its URL says it (default: the name with an s)')
    .option('--dir <checkout>', 'where to write (default: the checkout in or above the working directory)')
    .action(async (name: string, flags: { plural?: string; dir?: string }) => {
      const { findCheckout, kindNames } = await import('../kind-names.js');
      const { generateKind } = await import('../new-kind.js');
      const checkout = findCheckout(flags.dir);
      const names = kindNames(checkout, name, flags.plural);
      const files = generateKind(checkout, names);
      context.show(
        { kind: names.kebab, plural: names.plural, checkout, files },
        `The kind ${names.kebab} is in ${checkout}:\n${files.map((file) => `  ${file}`).join('\n')}\n` +
          `Next: its fields, in the files of libs/kinds/${names.kebab} and the migration; then \`npm run generate\`\n` +
          `and \`npm test -- libs/kinds\`. docs/adding-a-kind.md says how.`,
      );
    });
}
