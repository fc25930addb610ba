export interface ApiDescription {
  x?: 1;
}
export interface KindDescription {
  x?: 1;
}
export function buildOpenApi(): object {
  return {};
}
