export { keptPlaceOf, placeOf } from './place.js';
