// An OpenID Connect provider: oidc-provider on this machine, with its pages for trying it out.
//
//   node provider.mjs NODE_MODULES PORT AUDIENCE
//
// Anybody signs in under any name with any password. The name is `sub` and `preferred_username`; what follows a plus sign in it are
// groups, as in ann+builders. `outport-cli` is a public client with the device flow; `robot` gets access tokens for AUDIENCE by its
// client credentials. The keys are new at each start.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port, audience] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(join(modules, 'oidc-provider', 'lib', 'index.js')));

const issuer = `http://127.0.0.1:${port}`;
const key = (kind, options, algorithm) => {
  const jwk = generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, use: 'sig', alg: algorithm, kid: randomBytes(8).toString('hex') };
};
const people = async (_, id) => ({
  accountId: id,
  claims: async () => ({ sub: id, preferred_username: id.split('+')[0], groups: id.split('+').slice(1) }),
});

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'outport-cli', token_endpoint_auth_method: 'none', application_type: 'native',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code'], response_types: [], redirect_uris: [],
      id_token_signed_response_alg: 'ES256',
    },
    {
      client_id: 'robot', client_secret: 'the secret of the robot', grant_types: ['client_credentials'], response_types: [],
      redirect_uris: [],
    },
  ],
  claims: { openid: ['sub'], profile: ['preferred_username'], groups: ['groups'] },
  // The identity token says it all, as it does with most providers.
  conformIdTokenClaims: false,
  cookies: { keys: [randomBytes(16).toString('hex')] },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx) => (ctx.oidc.client.clientId === 'robot' ? 'urn:registry' : undefined),
      getResourceServerInfo: () => ({ scope: '', audience, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
  findAccount: people,
  jwks: { keys: [key('rsa', { modulusLength: 2048 }, 'RS256'), key('ec', { namedCurve: 'P-256' }, 'ES256')] },
});

provider.listen(Number(port), '127.0.0.1', () => console.log(`listening at ${issuer}`));
