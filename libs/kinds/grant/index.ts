export { grant } from './grant.kind.js';
