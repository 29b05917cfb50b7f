// What Grafana's own types say of a dashboard. `check_grafana` puts each of ours after it.
import type * as g from "@grafana/schema";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the text of an enum, where TypeScript wants its name.
type Written<T> = T extends string
  ? `${T}`
  : T extends (infer One)[]
    ? Written<One>[]
    : T extends object
      ? { [Key in keyof T]: Written<T[Key]> }
      : T;

type PanelOf<Kind extends string, Options, Custom> = Omit<
  Written<g.Panel>,
  "type" | "options" | "fieldConfig"
> & {
  type: Kind;
  options: Partial<Written<Options>>;
  fieldConfig: {
    defaults: Omit<Written<g.FieldConfig>, "custom"> & { custom?: Partial<Written<Custom>> };
    overrides: Written<g.FieldConfigSource["overrides"]>;
  };
};

// A source of data adds its own keys.
type Annotation = Omit<Written<g.AnnotationQuery>, "target"> & {
  target?: Record<string, unknown>;
  expr?: string;
  step?: string;
  titleFormat?: string;
  textFormat?: string;
};

type Dashboard = Omit<Written<g.Dashboard>, "panels" | "annotations"> & {
  annotations: { list: Annotation[] };
  panels: (
    | (Omit<Written<g.RowPanel>, "type"> & { type: "row" })
    | PanelOf<"stat", stat.Options, object>
    | PanelOf<"state-timeline", timeline.Options, timeline.FieldConfig>
    | PanelOf<"table", table.Options, table.FieldConfig>
    | PanelOf<"timeseries", timeseries.Options, timeseries.FieldConfig>
  )[];
};

export const dashboard: Dashboard =
