/** What `npm start` prints at its end: commands that work as they stand, from a token to a machine's console. */
import type { DevJson } from './dev-json.js';

/** `passwordOf` gives the password of a tenant's development users. */
export function hints(dev: DevJson, devJsonFile: string, passwordOf: (tenant: string) => string): string {
  const [tenant, access] = Object.entries(dev.tenants)[0] ?? [];
  if (!tenant || !access) return '';
  const password = passwordOf(tenant);
  const json = "-H 'content-type: application/json'";
  return `
Rhyzome serves; Ctrl-C stops it.

  REST API   ${dev.api}  (OpenAPI: ${dev.api}/v1/openapi.json)
  gRPC       ${dev.grpc}  (client certificate in ${devJsonFile})
  issuer     ${dev.issuer}
  node       ${dev.driver}
  admin      npx rhyzome --config ${dev.config} tenant list
  more nodes npx rhyzome --config ${dev.config} node enroll node2  (docs/nodes.md, “A second node”)

Try, as tenant ${tenant}:

  TOKEN=$(curl -s -u '${access.clientId}:${access.clientSecret}' -d grant_type=client_credentials \\
    ${access.issuer}/protocol/openid-connect/token | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
  curl -s -H "authorization: Bearer $TOKEN" ${json} \\
    -d '{"name": "net1", "subnet": "10.20.0.0/24"}' '${dev.api}/v1/networks?wait=30s'
  curl -s -H "authorization: Bearer $TOKEN" ${json} \\
    -d '{"name": "vm1", "image": "tiny", "vcpus": 1, "memoryMiB": 128, "interfaces": [{"network": "net1"}]}' \\
    '${dev.api}/v1/instances?wait=60s'
  curl -s -H "authorization: Bearer $TOKEN" '${dev.api}/v1/instances/vm1/console'

Or log in as a person (alice, oscar, vera: administrator, operator, viewer; password ${password}):

  npx rhyzome login --api ${dev.api} --issuer ${access.issuer}
  curl -s -H "authorization: Bearer $(npx rhyzome token)" '${dev.api}/v1/permissions'
`;
}
