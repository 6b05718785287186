#include <CLI/CLI.hpp>

#include "cli/shim.h"

namespace bulkhead::cli {

void add_shim(CLI::App& app, ShimOptions& o) {
  app.require_subcommand(1);
  CLI::App& sign = *app.add_subcommand("sign", "Sign the library that nodes may preload");
  sign.add_option("--key", o.key, "The signer's private key, PEM")->type_name("FILE")->required();
  sign.add_option("--cert", o.certificate, "Its certificate for signing code, then its issuers")
      ->type_name("FILE")
      ->required();
  sign.add_option("--library", o.library, "The library (default the installed one)")
      ->type_name("FILE");
  sign.add_option("--daemon", o.daemon, "The daemon, to be checked too")->type_name("FILE");
  sign.add_option("--version", o.version, "Its version (default 0.1.0)")->type_name("N.N.N");
  sign.add_option("--minimum", o.minimum, "Nothing older is good any more (default the version)")
      ->type_name("N.N.N");
  sign.add_option("--out", o.out, "The manifest; the signature goes beside it as .p7s")
      ->type_name("FILE")
      ->required();
  CLI::App& verify = *app.add_subcommand("verify", "Check a manifest, and files against it");
  verify.add_option("MANIFEST", o.manifest, "The manifest; its signature lies beside it")
      ->required();
  verify.add_option("--root", o.root, "The firm's root certificate, PEM")
      ->type_name("FILE")
      ->required();
  verify.add_option("--library", o.library, "A library to compare")->type_name("FILE");
  verify.add_option("--daemon", o.daemon, "A daemon to compare")->type_name("FILE");
}

}  // namespace bulkhead::cli
