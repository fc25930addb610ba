/** What a new kind is called in its files, and whether a checkout has room for the names. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { CliError, exitStatus } from './exit-status.js';

export interface KindNames {
  /** `key-pair`: the kind, its folder and its files. */
  kebab: string;
  /** `keyPair`: the manifest. */
  camel: string;
  /** `KeyPair`: classes and schemas. */
  pascal: string;
  /** `key_pair`: the table. */
  snake: string;
  /** `key-pairs`: the path below /v1. */
  plural: string;
  /** `keyPairs`: its quota. */
  camelPlural: string;
}

const MAX_CHARACTERS = 40;
const shape = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/;

/** What no binding of a module may be called (ECMA-262 §12.7.2), and what the generated barrel exports. */
const reserved = new Set(
  (
    'arguments await break case catch class const continue debugger default delete do else enum eval export extends false ' +
    'finally for function if implements import in instanceof interface let new null package private protected public ' +
    'return static super switch this throw true try typeof undefined var void while with yield kinds'
  ).split(' '),
);

function refused(code: string, message: string): CliError {
  return new CliError(code === 'taken' ? exitStatus.refused : exitStatus.usage, code, message);
}

function camelOf(name: string): string {
  return name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** The checkout in or above a folder. Throws CliError where there is none. */
export function findCheckout(start = '.'): string {
  for (let folder = resolve(start); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'templates', 'kind')) && existsSync(join(folder, 'libs', 'kinds'))) return folder;
    if (folder !== dirname(folder)) continue;
    throw new CliError(
      exitStatus.notFound,
      'not_found',
      `There is no checkout of Rhyzome in or above ${resolve(start)}.`,
    );
  }
}

/** The forms of a kind's name. Throws CliError where they are wrong or taken. */
export function kindNames(checkout: string, kebab: string, plural = `${kebab}s`): KindNames {
  for (const text of [kebab, plural]) {
    if (!shape.test(text) || text.length > MAX_CHARACTERS) {
      throw refused(
        'invalid',
        `“${text.slice(0, 2 * MAX_CHARACTERS)}” cannot be a kind’s name: at most ${MAX_CHARACTERS} of a-z and 0-9, words joined by “-”.`,
      );
    }
  }
  if (plural === kebab) throw refused('invalid', 'The plural must differ from the name; say another with --plural.');
  const camel = camelOf(kebab);
  const pascal = camel[0]!.toUpperCase() + camel.slice(1);
  const names = { kebab, camel, pascal, snake: kebab.replaceAll('-', '_'), plural, camelPlural: camelOf(plural) };
  if (reserved.has(camel)) throw refused('invalid', `“${camel}” is a word of the language; take another name.`);
  refuseTaken(checkout, names);
  return names;
}

/** Folder, path, schemas and table must all be free. */
function refuseTaken(checkout: string, { kebab, camel, pascal, snake, plural }: KindNames): void {
  const taken = (what: string) => refused('taken', `${what} is there already; take another name.`);
  const same = readdirSync(join(checkout, 'libs', 'kinds')).find((name) => name === kebab || camelOf(name) === camel);
  if (same) throw taken(`The kind ${same}`);
  const api = JSON.parse(readFileSync(join(checkout, 'openapi.json'), 'utf8')) as {
    paths: object;
    components: { schemas: object };
  };
  const isOnPath = (path: string) => path.split('/')[2] === plural;
  if (Object.keys(api.paths).some(isOnPath)) throw taken(`The path /v1/${plural}`);
  for (const schema of [pascal, `${pascal}Create`, `${pascal}Update`]) {
    if (Object.hasOwn(api.components.schemas, schema)) throw taken(`The schema ${schema}`);
  }
  const schema = readFileSync(join(checkout, 'sql', 'schema.sql'), 'utf8');
  if (new RegExp(`^create (table|view|materialized view) "?${snake}"? `, 'm').test(schema)) {
    throw taken(`The table ${snake}`);
  }
}
