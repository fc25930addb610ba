/** Ids of resources and jobs: UUIDv7 (RFC 9562 §5.7), made by the application, so that they sort by time of creation. */
import { v7 } from 'uuid';

const uuidShape = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** A new UUIDv7 in lower case. */
export function newId(): string {
  return v7();
}

/** True for the canonical lower-case text of any UUID version. */
export function isUuid(text: string): boolean {
  return uuidShape.test(text);
}

const requestIdShape = /^[A-Za-z0-9._:-]{8,128}$/;

/** A request id as the client sent it if it is well-formed (8-128 of letters, digits, `._:-`), else a new one. */
export function requestIdFrom(sent: unknown): string {
  return typeof sent === 'string' && requestIdShape.test(sent) ? sent : newId();
}
