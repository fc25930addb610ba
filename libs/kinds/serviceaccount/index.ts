import './serviceaccount.moving.js';

export { serviceaccount } from './serviceaccount.kind.js';
export { findServiceaccount } from './serviceaccount.rows.js';
