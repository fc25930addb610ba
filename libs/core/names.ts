/** What resources and tenants may be called. */
import { isUuid } from './ids.js';

/** 1-63 of a-z, 0-9, `-`, starting with a letter, not ending in `-`; also a valid DNS label (RFC 1035 §2.3.1). */
export const namePattern = /^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
export const nameRule =
  '1-63 characters of a-z, 0-9 and "-", starting with a letter, not ending in "-", not shaped like a UUID';

export function isName(text: string): boolean {
  return namePattern.test(text) && !isUuid(text);
}

/** Lower-case letters and digits, 1-63. */
export const tenantIdPattern = /^[a-z0-9]{1,63}$/;

/** Owns the global images; nobody logs in to it. */
export const SYSTEM_TENANT = 'system';

export function isTenantId(text: string): boolean {
  return tenantIdPattern.test(text);
}
