// An OpenID provider on loopback, for the tests: gives access tokens of RFC 9068 to one client, bound to its key by
// DPoP or to its certificate where it shows one. The first line of its output is its issuer.
//
//     node oidc_provider.mjs path/to/oidc-provider/lib/index.js

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const { default: Provider } = await import(pathToFileURL(process.argv[2]));

const key = { ...generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" }), alg: "ES256", use: "sig" };
const client = {
  client_id: "app",
  client_secret: "secret",
  token_endpoint_auth_method: "client_secret_post",
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  // Nobody asks for ID tokens here, but their default algorithm would need another key.
  id_token_signed_response_alg: "ES256",
};

const configuration = {
  jwks: { keys: [key] },
  clients: [client, { ...client, client_id: "bound", tls_client_certificate_bound_access_tokens: true }],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    dPoP: { enabled: true },
    // A proxy in front would have ended TLS and say in a header which certificate it saw.
    mTLS: { enabled: true, certificateBoundAccessTokens: true, getCertificate: (ctx) => decodeURIComponent(ctx.get("x-certificate")) },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: "orders:read",
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: 60,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
};

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on("request", new Provider(issuer, configuration).callback());
  console.log(issuer);
});
