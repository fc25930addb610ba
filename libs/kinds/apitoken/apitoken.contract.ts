/** Kind apitoken before the contract suite. */
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';
const inDays = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString();

export const contract = kindContract({
  isPersonal: true,
  create: (ctx) => ({ name: ctx.unique() }),
  patch: { tags: { used: 'by-ci' }, deletionProtection: false },
  invalid: [
    { change: { serviceAccount: 'no-such-account' }, pointer: '/serviceAccount' },
    { change: { serviceAccount: MISSING }, pointer: '/serviceAccount' },
    { change: { expiresAt: inDays(-1) }, pointer: '/expiresAt' },
    { change: { expiresAt: inDays(367) }, pointer: '/expiresAt' },
    { change: { expiresAt: 'tomorrow' }, pointer: '/expiresAt' },
    { change: { expiresAt: inDays(2), expiresInDays: 2 }, pointer: '/expiresInDays' },
    { change: { expiresInDays: 0 }, pointer: '/expiresInDays' },
    { change: { expiresInDays: 367 }, pointer: '/expiresInDays' },
    { change: { scopes: [] }, pointer: '/scopes' },
    { change: { scopes: ['network'] }, pointer: '/scopes/0' },
    { change: { scopes: ['network:read', 'network:read instance:read'] }, pointer: '/scopes/1' },
  ],
});
