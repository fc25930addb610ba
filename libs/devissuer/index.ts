export type { AdminClient } from './admin-api.js';
export { devUsers } from './directory.js';
export { type DevIssuer, type DevIssuerOptions, type RealmAccess, startIssuer } from './issuer.js';
export { apiAudience } from './realm.js';
