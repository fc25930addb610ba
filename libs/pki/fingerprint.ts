/** The fingerprint by which somebody who has no CA yet knows the right one: `sha256:` and 64 hex digits of its DER. */
import { parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { readPem } from './files.js';

const shape = /^(?:sha256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})$/i;

/** In one form: hex digits in lower case; colons and the prefix may be left out. Undefined: it is none. */
export function parseFingerprint(text: string): string | undefined {
  const [, digits] = shape.exec(text.trim()) ?? [];
  return digits && `sha256:${digits.replaceAll(':', '').toLowerCase()}`;
}

/** Of the first certificate in a file. Throws PkiError. */
export async function fingerprintOf(file: string): Promise<string> {
  const [first] = parseCertificates(await readPem(file, 'the CA'), file, 'the CA');
  return parseFingerprint(first!.fingerprint256)!;
}

/** The CA of this fingerprint among those that somebody gave, in PEM. Throws PkiError `not_signed_by_ca`. */
export function pickByFingerprint(pem: string, fingerprint: string): string {
  const found = parseCertificates(Buffer.from(pem), 'the answer', 'the CA').find(
    ({ fingerprint256, ca }) => ca && parseFingerprint(fingerprint256) === fingerprint,
  );
  if (found) return found.toString();
  throw new PkiError(
    'not_signed_by_ca',
    `The controller has no CA with the fingerprint ${fingerprint}. Either the fingerprint is mistyped, or somebody else answers in its place: nothing was sent to it.`,
  );
}
