export { apitoken } from './apitoken.kind.js';
