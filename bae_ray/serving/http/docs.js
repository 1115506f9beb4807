"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: "none", // else it would send the description elsewhere
  onComplete: () => {
    document.body.dataset.ready = "yes";
  },
});
