/** Who comes to the matrix with what: tokens that are none or not for here, and good ones that give too little. */
import type { JWTPayload } from 'jose';
import { ATTACKER, DOMAIN, type Lab, VICTIM } from './lab.js';

export interface Bearer {
  token: string | null;
  headers?: Record<string, string>;
}

export type BearerOf = (lab: Lab) => Promise<Bearer> | Bearer;

const hour = 3600;
const inAnHour = () => Math.floor(Date.now() / 1000) + hour;
const anHourAgo = () => Math.floor(Date.now() / 1000) - hour;

const claiming = (claims: () => JWTPayload) => async (lab: Lab) => ({
  token: await lab.issuers.token(VICTIM, claims()),
});

/** Tokens that are none, or not for this tenant here: refused before anything is looked up. */
export const refusedBearers: Record<string, BearerOf> = {
  'no token': () => ({ token: null }),
  'another scheme': () => ({ token: null, headers: { authorization: 'Basic YWNtZTphY21l' } }),
  'empty token': () => ({ token: '' }),
  'no JWT': () => ({ token: 'garbage' }),
  'malformed token': () => ({ token: 'a.b.c' }),
  'token without its signature': async ({ issuers }) => ({
    token: `${(await issuers.token(VICTIM)).split('.').slice(0, 2).join('.')}.`,
  }),
  'token too long': async ({ issuers }) => ({ token: `${await issuers.token(VICTIM)}${'x'.repeat(9_000)}` }),
  'expired token': claiming(() => ({ exp: anHourAgo() })),
  'token that never expires': claiming(() => ({ exp: undefined })),
  'token that expires in words': claiming(() => ({ exp: 'tomorrow' as never })),
  'token not valid yet (nbf)': claiming(() => ({ nbf: inAnHour() })),
  'token issued in the future (iat)': claiming(() => ({ iat: inAnHour() })),
  'no audience': claiming(() => ({ aud: undefined })),
  'no subject': claiming(() => ({ sub: undefined })),
  'no issuer': claiming(() => ({ iss: undefined })),
  'wrong audience': claiming(() => ({ aud: 'urn:somebody:else' })),
  'issuer of another realm': async ({ issuers }) => ({
    token: await issuers.token(VICTIM, { iss: issuers.issuerOf(ATTACKER) }),
  }),
  'unknown issuer': claiming(() => ({ iss: 'https://issuer.invalid/realms/acme' })),
  'issuer that no tenant has': async (lab) => ({ token: await lab.issuers.token('stranger') }),
  'alg none': (lab) => ({ token: lab.issuers.unsigned(VICTIM) }),
  'HS256 with the public key': (lab) => ({ token: lab.issuers.signedWithPublicKey(VICTIM) }),
  'key id of another realm': async ({ issuers }) => ({
    token: await issuers.sign(VICTIM, issuers.claims(VICTIM), { kid: issuers.kidOf(ATTACKER) }),
  }),
  'key of another realm': async ({ issuers }) => ({
    token: await issuers.sign(ATTACKER, issuers.claims(VICTIM), { kid: issuers.kidOf(VICTIM) }),
  }),
  'changed after it was signed': async ({ issuers }) => {
    const [head, , signature] = (await issuers.token(VICTIM)).split('.');
    const claims = Buffer.from(JSON.stringify(issuers.claims(VICTIM, { sub: 'root' }))).toString('base64url');
    return { token: `${head}.${claims}.${signature}` };
  },
  'suspended tenant': async (lab) => ({ token: await lab.issuers.token('initech') }),
  'removed user': claiming(() => ({ sub: 'removed-user' })),
  'ID token': claiming(() => ({ typ: 'ID' })),
  'refresh token': claiming(() => ({ typ: 'Refresh' })),
  'token bound to a key': claiming(() => ({ cnf: { jkt: 'x' } })),
  'shared issuer, no organization': async (lab) => ({ token: await lab.issuers.token('shared') }),
  'shared issuer, unknown organization': async (lab) => ({
    token: await lab.issuers.token('shared', { organization: ['initech'] }),
  }),
  'shared issuer, two organizations': async (lab) => ({
    token: await lab.issuers.token('shared', { organization: [VICTIM, ATTACKER] }),
  }),
  'foreign host name': async (lab) => ({
    token: await lab.issuers.token(ATTACKER),
    headers: { host: `${VICTIM}.${DOMAIN}` },
  }),
  'foreign domain': async (lab) => ({
    token: await lab.issuers.token(ATTACKER),
    headers: { host: 'api.acme.example' },
  }),
  'host name of no tenant': async (lab) => ({
    token: await lab.issuers.token(ATTACKER),
    headers: { host: `absent.${DOMAIN}` },
  }),
  'API token that is none': () => ({ token: `rhz_${'0'.repeat(43)}` }),
  'API token, revoked': ({ apiTokens }) => ({ token: apiTokens.revoked }),
  'API token, ended': ({ apiTokens }) => ({ token: apiTokens.ended }),
  'API token of a disabled service account': ({ apiTokens }) => ({ token: apiTokens.ofDisabled }),
  'API token at a foreign host name': ({ apiTokens }) => ({
    token: apiTokens.narrowed,
    headers: { host: `${ATTACKER}.${DOMAIN}` },
  }),
};

/** Of somebody of the tenant who has made nothing and has no role; and what he has. */
const weak = (claims: JWTPayload) => claiming(() => ({ sub: 'newcomer', realm_access: { roles: [] }, ...claims }));
const withRoles = (...roles: string[]) => ({ realm_access: { roles } });

/** Tokens of the tenant that are good, and give nothing that the route needs. */
export const weakBearers: Record<string, BearerOf> = {
  'no role': weak({}),
  'role of another system': weak(withRoles('Admin', 'root', 'offline_access')),
  'scope missing': weak({ ...withRoles('admin'), scope: 'openid unicorn:read' }),
  'API token for another kind': ({ apiTokens }) => ({ token: apiTokens.narrowed }),
  'grant for another kind': weak({ sub: 'other-kind' }),
  'grant for another resource': weak({ sub: 'other-resource' }),
  'grant by tags that nothing has': weak({ sub: 'other-tags' }),
};

/** Good for looking, and for nothing else. */
export const readers: Record<string, BearerOf> = {
  'role without the verb (viewer)': weak(withRoles('viewer')),
  'scope without the verb': weak({ ...withRoles('admin'), scope: '*:read' }),
  'grant without the verb': weak({ sub: 'reader' }),
};
