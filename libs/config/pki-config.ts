/** The settings of a process's certificate, and of the CA by which rhyzome-grpc issues others. */
import { duration, object, optional, path, required } from './shape.js';

/** Paths of PEM files, absolute. */
export interface PkiConfig {
  ca: string;
  cert: string;
  key: string;
}

/** The CA by which rhyzome-grpc issues certificates to nodes and services. */
export interface IssuerConfig {
  cert: string;
  key: string;
  /** How long what is issued holds. */
  validityMs: number;
}

const MIN_VALIDITY_MS = 20_000;
const MAX_VALIDITY_MS = 10 * 365 * 24 * 60 * 60_000;

const files = { ca: required(path()), cert: required(path()), key: required(path()) };
export const pkiShape = object<PkiConfig>(files);

const issuer = object<{ cert: string; key: string; validity: number }>({
  cert: required(path()),
  key: required(path()),
  validity: optional(duration(MIN_VALIDITY_MS, MAX_VALIDITY_MS), () => '30d'),
});

export const pkiWithIssuerShape = object<PkiConfig & { issuer?: IssuerConfig }>({
  ...files,
  issuer: optional((value, place) => {
    const given = issuer(value, place);
    return given && { cert: given.cert, key: given.key, validityMs: given.validity };
  }),
});
