// node validate.mjs FILE: fails unless the file is a valid OpenAPI description, every reference resolved.
import SwaggerParser from "@apidevtools/swagger-parser";

const api = await SwaggerParser.validate(process.argv[2]);
console.log(api.openapi, Object.keys(api.paths).length);
