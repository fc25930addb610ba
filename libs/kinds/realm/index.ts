export { placeOf } from './place.js';
