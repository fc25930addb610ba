export { devUsers } from './directory.js';
export { type DevIssuer, type DevIssuerOptions, type RealmAccess, startIssuer } from './issuer.js';
export { apiAudience } from './realm.js';
export type { AdminClient } from './secrets.js';
