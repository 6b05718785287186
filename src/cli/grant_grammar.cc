#include <CLI/CLI.hpp>

#include "cli/grant.h"

namespace bulkhead::cli {

void add_grant(CLI::App& app, GrantOptions& o) {
  app.require_subcommand(1);
  CLI::App& keygen = *app.add_subcommand("keygen", "Make an issuer's key and its trust file");
  keygen.add_option("--key", o.key, "Where the private key goes, mode 0600")
      ->type_name("FILE")
      ->required();
  keygen.add_option("--jwks", o.jwks, "Where the public key goes, for [trust] jwks of a node")
      ->type_name("FILE");
  CLI::App& issue = *app.add_subcommand("issue", "Sign a grant");
  issue.add_option("--key", o.key, "The issuer's private key")->type_name("FILE")->required();
  issue.add_option("--subject", o.subject, "The service: the tenant's grant_subject")
      ->type_name("NAME")
      ->required();
  issue.add_option("--audience", o.audience, "The node: its [trust] audience, or its host name")
      ->type_name("NODE")
      ->required();
  issue.add_option("--actions", o.actions, "What may move: h2d,d2h,d2d,p2p,set,h2h,map")
      ->type_name("LIST")
      ->delimiter(',')
      ->required();
  issue.add_option("--gpu", o.gpus, "UUIDs of the GPUs")
      ->type_name("LIST")
      ->delimiter(',')
      ->required();
  issue.add_option("--class", o.classes, "Classification of the data, as words")
      ->type_name("LIST")
      ->delimiter(',')
      ->required();
  issue.add_option("--for", o.life, "How long from now: 60s, at most 15m (default 10m)")
      ->type_name("TIME");
  issue.add_option("--bytes", o.bytes, "Most bytes of all transfers together")->type_name("N");
  issue.add_option("--address", o.address, "First device address that may be touched")
      ->type_name("0x...");
  issue.add_option("--length", o.length, "Bytes from there")->type_name("N");
  issue.add_option("--issuer", o.issuer, "Name of the issuer (default bulkhead)")
      ->type_name("NAME");
  issue.add_option("--out", o.out, "Write it there, by rename: a run that watches it renews")
      ->type_name("FILE");
  CLI::App& inspect = *app.add_subcommand("inspect", "Say in words what a grant allows");
  inspect.add_option("FILE", o.file, "The token")->required();
  inspect.add_option("--jwks", o.jwks, "Check its signature with this trust file")
      ->type_name("FILE");
  inspect.add_flag("--json", o.json, "For programs");
  CLI::App& renew = *app.add_subcommand("renew", "Give a tenant a grant, now");
  renew.add_option("TENANT", o.tenant, "The tenant")->required();
  renew.add_option("FILE", o.file, "The token")->required();
  CLI::App& revoke =
      *app.add_subcommand("revoke", "End grants at their next call, and refuse them from now on");
  revoke.add_option("--id", o.id, "One grant, by its jti")->type_name("ID");
  revoke.add_option("--tenant", o.tenant, "All of a tenant")->type_name("NAME");
  revoke.add_option("--kid", o.key, "All that one key has signed")->type_name("KID");
  CLI::App& jwks = *app.add_subcommand("jwks", "Join keys into one trust file");
  jwks.add_option("FILE", o.files, "Private keys in PEM, or trust files")->required();
  jwks.add_option("--out", o.out, "Write it there, by rename")->type_name("FILE");
}

}  // namespace bulkhead::cli
