/** Kind serviceaccount before the contract suite: without keys, which need no identity provider. Its spec has those. */
import { generateKeyPairSync } from 'node:crypto';
import { kindContract } from '#libs/testing/contract';

const jwkOf = (bits: number) =>
  generateKeyPairSync('rsa', { modulusLength: bits }).privateKey.export({ format: 'jwk' });
const { d: _d, p: _p, q: _q, dp: _dp, dq: _dq, qi: _qi, ...short } = jwkOf(1024);
const ed25519 = { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' };

export const contract = kindContract({
  create: (ctx) => ({ name: ctx.unique(), description: 'deploys' }),
  patch: { description: 'deploys no more', tags: { team: 'shop' } },
  actions: { disable: {}, enable: {} },
  invalid: [
    { change: { description: 'x'.repeat(256) }, pointer: '/description' },
    { change: { publicKeys: { keys: [] } }, pointer: '/publicKeys/keys' },
    { change: { publicKeys: { keys: [jwkOf(2048)] } }, pointer: '/publicKeys/keys/0' },
    { change: { publicKeys: { keys: [short] } }, pointer: '/publicKeys/keys/0/n' },
    { change: { publicKeys: { keys: [{ kty: 'oct', k: 'AAAA' }] } }, pointer: '/publicKeys/keys/0' },
    { change: { publicKeys: { keys: [{ ...ed25519, x: 'AAAA' }] } }, pointer: '/publicKeys/keys/0' },
    { change: { publicKeys: { keys: [{ ...ed25519, use: 'enc' }] } }, pointer: '/publicKeys/keys/0/use' },
    { change: { publicKeys: { keys: [ed25519, ed25519] } }, pointer: '/publicKeys/keys/1/kid' },
    { change: { publicKeys: { keys: [ed25519], more: 1 } }, pointer: '/publicKeys' },
  ],
});
