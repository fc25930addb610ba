export { type DevIssuer, type DevIssuerOptions, type RealmAccess, startIssuer } from './issuer.js';
export { apiAudience, devUsers } from './realm.js';
