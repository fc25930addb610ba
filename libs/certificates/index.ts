export * from './enrollment.js';
export * from './issued.js';
export * from './renewal.js';
export * from './revocation-list.js';
export * from './revoking.js';
export * from './taking-over.js';
export * from './tokens.js';
