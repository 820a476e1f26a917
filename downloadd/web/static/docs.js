// Shows /openapi.json. Paths are relative, so that a proxy may have put the server anywhere.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  displayRequestDuration: true,
  // Nobody but this server is asked.
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
