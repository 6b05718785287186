# cmake -DFOLDER=page -DOUT=page.cc -P embed.cmake : the console's files as one source file, byte arrays by name.
set(text "#include \"daemon/sight/page.h\"\n\nnamespace bulkhead::daemon {\nnamespace {\n")
set(rows "")
foreach(entry IN ITEMS "/|index.html|text/html; charset=utf-8" "/console.css|console.css|text/css; charset=utf-8"
                       "/console.js|console.js|text/javascript; charset=utf-8" "/icon.svg|icon.svg|image/svg+xml")
  string(REPLACE "|" ";" entry "${entry}")
  # the type has a semicolon of its own: put it together again
  list(POP_FRONT entry path file)
  list(JOIN entry ";" type)
  file(READ ${FOLDER}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(MAKE_C_IDENTIFIER "${file}" name)
  string(APPEND text "constexpr char k_${name}[] = {${bytes}};\n")
  string(APPEND rows "    {\"${path}\", \"${type}\", {k_${name}, sizeof k_${name}}},\n")
endforeach()
string(APPEND text "}  // namespace\n\nconst std::array<PageFile, 4> kPageFiles{{\n${rows}}};\n\n}  // namespace bulkhead::daemon\n")
file(WRITE ${OUT} "${text}")
